from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path

import pytest

from dstc.worker.prometheus import (
    METRICS,
    QUEUE_WAIT,
    RUN_ACTORS_RUNNING,
    RUN_ROWS,
    ActorMetrics,
    DriverMetrics,
    Metric,
)

ROOT = Path(__file__).resolve().parents[4]


class Notes:
    """A recorder that keeps what it is given, summed up by name and tags."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}
        self.calls = 0
        self.observed: list[float] = []
        self.gauges: dict[str, float] = {}
        self.on_set: Callable[[], object] = lambda: None
        self.lock = threading.Lock()

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert metric.kind == "counter" and tuple(tags) == metric.tags and value > 0
        key = (metric.name.removeprefix("dstc_"), *tags.values())
        with self.lock:
            self.counts[key] = self.counts.get(key, 0) + value
            self.calls += 1

    def set(self, metric: Metric, value: float) -> None:
        assert metric.kind == "gauge"
        self.gauges[metric.name] = value
        self.on_set()

    def observe(self, metric: Metric, value: float) -> None:
        assert metric is QUEUE_WAIT
        self.observed.append(value)


class Broken:
    """A recorder that never works."""

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        raise RuntimeError("no metrics today")

    def set(self, metric: Metric, value: float) -> None:
        raise RuntimeError("no metrics today")

    def observe(self, metric: Metric, value: float) -> None:
        raise RuntimeError("no metrics today")


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


def test_every_verb_ends_in_its_numbers() -> None:
    notes = Notes()
    say_everything(ActorMetrics("run-1", notes))
    assert notes.counts == {
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
    assert notes.observed == [2.0, 3.0]


def test_many_rows_are_handed_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("dstc.worker.prometheus.time.monotonic", lambda: now)
    notes = Notes()
    metrics = ActorMetrics("run-1", notes)
    for _ in range(1000):
        metrics.row_ended("done")
    assert notes.calls == 0
    now += 1.0
    metrics.row_ended("done")
    assert (notes.calls, notes.counts) == (1, {("rows_ended", "done", "none"): 1001})
    metrics.row_ended("done")
    assert notes.calls == 1, "the next second has begun"
    metrics.shard_ended()
    assert notes.counts["rows_ended", "done", "none"] == 1002, "nothing waits behind a shard's end"


def test_no_count_is_lost_between_threads() -> None:
    notes = Notes()
    metrics = ActorMetrics("run-1", notes)

    def rows(number: int) -> None:
        for row in range(2000):
            metrics.row_ended("done")
            if row % 100 == number:
                metrics.shard_ended()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rows, range(4)))
    metrics.shard_ended()
    assert notes.counts == {("rows_ended", "done", "none"): 8000, ("shards_ended",): 81}


@pytest.mark.parametrize(
    "reason",
    ["row/0001", "s3://bucket/a.png", "Traceback (most recent call last)", "x" * 41, "", "Ünsinn"],
)
def test_what_is_no_word_of_ours_does_not_become_a_tag(reason: str) -> None:
    notes = Notes()
    metrics = ActorMetrics("run-1", notes)
    metrics.row_ended("failed", reason)
    metrics.shard_ended()
    assert notes.counts["rows_ended", "failed", "other"] == 1


def test_reasons_without_end_become_other() -> None:
    notes = Notes()
    metrics = ActorMetrics("run-1", notes)
    for number in range(500):
        metrics.row_ended("failed", f"reason_{number}")
    metrics.row_ended("failed", "reason_0")
    metrics.shard_ended()
    tags = {key[2] for key in notes.counts if key[0] == "rows_ended"}
    assert len(tags) == 41 and "other" in tags
    assert notes.counts["rows_ended", "failed", "reason_0"] == 2


def test_a_recorder_that_breaks_does_not_break_the_job() -> None:
    say_everything(ActorMetrics("run-1", Broken()))
    with DriverMetrics("run-1", Broken(), again_every_s=0.001) as driver:
        driver.show(rows=4)


def test_without_ray_nothing_happens() -> None:
    say_everything(ActorMetrics("run-1"))
    with DriverMetrics("run-1") as driver:
        driver.show(rows=4)


def test_the_driver_keeps_a_number_that_is_not_named_again() -> None:
    notes = Notes()
    metrics = DriverMetrics("run-1", notes)
    metrics.show(rows=100, actors_running=1)
    metrics.show(actors_running=2)
    assert notes.gauges == {RUN_ROWS.name: 100, RUN_ACTORS_RUNNING.name: 2}
    numbers = signature(DriverMetrics.show).parameters.keys() - {"self"}
    metrics.show(**dict.fromkeys(numbers, 7))
    assert notes.gauges == {m.name: 7 for m in METRICS if m.kind == "gauge"}


def test_the_driver_shows_its_numbers_again_by_itself() -> None:
    notes = Notes()
    shown_again = threading.Event()
    with DriverMetrics("run-1", notes, again_every_s=0.001) as metrics:
        metrics.show(rows=100)
        notes.gauges.clear()
        notes.on_set = shown_again.set
        assert shown_again.wait(10)
    assert notes.gauges == {RUN_ROWS.name: 100}


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
