"""docs/python.md: its examples run, the job without Ray, the one image with the real networks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from dstc.driver.progress_calls import ProgressCalls
from dstc.driver.summary import Summary
from dstc.planning.settings import Settings
from tests.hostile.local_run import LocalRun
from tests.unit.dstc.manifests.files import write_images

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "python.md").read_text()


class Monitor:
    """Stands in for a run's."""

    class pace:
        rows_ended, rate, seconds_left = 4, 1.0, 0.0


def test_the_examples_run_in_the_order_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Settings, show: Any) -> Summary:
        with show(4, Monitor()):
            return LocalRun(Path(settings.manifest), Path(settings.output)).translate()

    monkeypatch.setattr(importlib.import_module("dstc.translate"), "run_silently", run)
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, ["cat.png", "pics/1.png", "pics/2.png"])
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        exec(compile(example, "docs/python.md", "exec", dont_inherit=True), {})
    told = capsys.readouterr().out
    assert "(64, 64)\n4 [] False\n" in told
    assert "4 of 4, 0.0 s left\n4 {} {}\n" in told
    assert told.count("(64, 64)") == 5 and "output/report.html" in told
    assert len(list((tmp_path / "classes").rglob("*.png"))) == 8


def test_a_function_of_the_caller_that_raises_does_not_end_the_run() -> None:
    calls: list[object] = []

    def on_progress(progress: object) -> None:
        calls.append(progress)
        raise ValueError("no display")

    with ProgressCalls(on_progress, 4, Monitor()):  # type: ignore[arg-type]
        pass
    assert len(calls) == 1
