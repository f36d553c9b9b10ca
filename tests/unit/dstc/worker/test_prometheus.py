from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from dstc.worker.prometheus import METRICS, ActorMetrics, RunMetrics

ROOT = Path(__file__).resolve().parents[4]


class Numbers:
    """What Ray's metrics were given, by name and tags in the order of their keys."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observed: list[float] = []
        self.made: list[tuple[str, str]] = []


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """A Ray that runs, with metrics as strict as its own."""
    numbers = Numbers()

    class Fake:
        def __init__(self, name: str, description: str, *bounds_and_keys: tuple[str, ...]) -> None:
            self._name, self._keys = name.removeprefix("dstc_"), bounds_and_keys[-1]
            self._defaults: dict[str, str] = {}
            numbers.made.append((name, description))

        def set_default_tags(self, tags: dict[str, str]) -> Fake:
            self._defaults = tags
            return self

        def _series(self, tags: dict[str, str]) -> tuple[str, ...]:
            tags = {**self._defaults, **tags}
            assert tags.keys() == set(self._keys) and tags.pop("run_id") == "run-1"
            return (self._name, *(tags[key] for key in self._keys if key != "run_id"))

    class Counter(Fake):
        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0
            series = self._series(tags)
            numbers.counts[series] = numbers.counts.get(series, 0) + value

    class Gauge(Fake):
        def set(self, value: float, tags: dict[str, str]) -> None:
            numbers.gauges[self._series(tags)] = value

    class Histogram(Fake):
        def observe(self, value: float, tags: dict[str, str]) -> None:
            assert self._series(tags) == ("queue_wait_seconds",)
            numbers.observed.append(value)

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for fake in (Counter, Gauge, Histogram):
        monkeypatch.setattr(f"dstc.worker.prometheus.{fake.__name__}", fake)
    return numbers


def say_everything(metrics: ActorMetrics) -> None:
    metrics.row_ended("done")
    metrics.row_ended("failed", "fetch_error")
    metrics.row_ended("failed", "fetch_error")
    metrics.spend("fetch", 0.5)
    metrics.spend("queue", 2.0)
    metrics.spend("queue", 3.0)
    metrics.step(0.25, 3, 4)
    metrics.step(0.25, 4, 4)
    metrics.engine_rebuilt("out_of_memory")
    metrics.row_restarts(0)
    metrics.row_restarts(2)
    metrics.moved("read", 1000)
    metrics.moved("written", 10)
    metrics.storage_retry()
    metrics.shard_ended()


def test_every_verb_ends_in_its_numbers(numbers: Numbers) -> None:
    say_everything(ActorMetrics("run-1"))
    assert numbers.counts == {
        ("rows_ended", "done", "none"): 1,
        ("rows_ended", "failed", "fetch_error"): 2,
        ("shards_ended",): 1,
        ("phase_seconds", "fetch"): 0.5,
        ("phase_seconds", "queue"): 5.0,
        ("steps",): 2,
        ("step_seconds",): 0.5,
        ("slot_steps",): 8,
        ("busy_slot_steps",): 7,
        ("engine_rebuilds", "out_of_memory"): 1,
        ("row_restarts",): 2,
        ("storage_bytes", "read"): 1000,
        ("storage_bytes", "written"): 10,
        ("storage_retries",): 1,
    }
    assert numbers.observed == [2.0, 3.0]
    defined = {(m.name, m.description) for m in METRICS if m.kind != "gauge"}
    assert sorted(numbers.made) == sorted(defined), "each is made once"


def test_every_metric_can_be_recorded(numbers: Numbers) -> None:
    metrics = RunMetrics("run-1")
    for metric in METRICS:
        metrics.record(metric.name, 7, **dict.fromkeys(metric.tags, "x"))
    recorded = {series[0] for series in [*numbers.counts, *numbers.gauges]}
    assert {f"dstc_{name}" for name in recorded} == {
        metric.name for metric in METRICS if metric.kind != "histogram"
    }
    assert numbers.observed == [7]


def test_a_gauge_may_be_nothing_and_a_counter_is_not_asked_to_add_it(numbers: Numbers) -> None:
    metrics = RunMetrics("run-1")
    metrics.record("dstc_run_rows_ended", 0)
    metrics.record("dstc_steps", 0)
    assert (numbers.gauges, numbers.counts) == ({("run_rows_ended",): 0}, {})


@pytest.mark.parametrize(
    "reason",
    ["row/0001", "s3://bucket/a.png", "Traceback (most recent call last)", "x" * 41, "", "Ünsinn"],
)
def test_what_is_no_word_of_ours_does_not_become_a_tag(numbers: Numbers, reason: str) -> None:
    ActorMetrics("run-1").row_ended("failed", reason)
    assert numbers.counts == {("rows_ended", "failed", "other"): 1}


def test_reasons_without_end_become_other(numbers: Numbers) -> None:
    metrics = ActorMetrics("run-1")
    for number in range(500):
        metrics.row_ended("failed", f"reason_{number}")
    metrics.row_ended("failed", "reason_0")
    tags = {reason for _, _, reason in numbers.counts}
    assert len(tags) == 41 and "other" in tags
    assert numbers.counts["rows_ended", "failed", "reason_0"] == 2


def test_threads_that_begin_together_lose_nothing(numbers: Numbers) -> None:
    metrics = ActorMetrics("run-1")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: metrics.spend("queue", float(row)), range(1000)))
    assert sorted(numbers.observed) == list(range(1000))


@pytest.mark.parametrize("broken", ["set_default_tags", "inc", "observe", "set"])
def test_a_metric_that_breaks_does_not_break_the_job(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no metrics today")

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"dstc.worker.prometheus.{kind}.{broken}", fail, raising=False)
    say_everything(ActorMetrics("run-1"))
    RunMetrics("run-1").record("dstc_run_rows", 4)


def test_without_ray_nothing_happens(numbers: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    say_everything(ActorMetrics("run-1"))
    assert not numbers.made


def test_names_follow_the_rules_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"dstc_[a-z_]+", metric.name)
        assert not metric.name.endswith(("_total", "_bucket", "_sum", "_count")), (
            "these endings are Ray's to add"
        )


def test_the_manual_names_exactly_the_metrics_there_are() -> None:
    text = (ROOT / "docs" / "prometheus.md").read_text()
    rows = re.findall(r"^\| `(dstc_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}
    assert documented == {metric.name: (metric.kind, metric.tags) for metric in METRICS}
