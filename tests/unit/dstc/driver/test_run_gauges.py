from __future__ import annotations

from inspect import signature

import pytest

from dstc.driver.run_gauges import DriverMetrics
from dstc.worker.prometheus import METRICS, RunMetrics


def test_each_number_becomes_the_gauge_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gauges: dict[str, float] = {}
    monkeypatch.setattr(RunMetrics, "record", lambda _, name, value: gauges.update({name: value}))
    names = signature(DriverMetrics.show).parameters.keys() - {"self"}
    numbers = {name: number for number, name in enumerate(sorted(names))}
    DriverMetrics("run-1").show(**numbers)
    assert gauges == {f"dstc_run_{name}": number for name, number in numbers.items()}
    assert gauges.keys() == {metric.name for metric in METRICS if metric.kind == "gauge"}
