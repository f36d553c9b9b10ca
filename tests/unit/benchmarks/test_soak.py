"""The parts of the soak that need no servers: which faults come, what an audit finds, slopes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.memory_over_time import MemoryLog, Sample, resident_mib, slope_of
from benchmarks.process_tree import descendants
from benchmarks.run_audit import compare
from benchmarks.storm import DECK, FROZEN, KINDS, faults


def life(pid: int, growth: float, seconds: int = 600, start: float = 0.0) -> list[Sample]:
    """A process that grows by so many MiB a minute after a steep start, and wanders by 2 MiB."""
    noise = np.random.default_rng(pid).normal(0, 2, seconds)
    return [
        Sample(
            start + t, "actor", pid, 300 + 10 * pid + min(0, t - 40) + growth * t / 60 + noise[t]
        )
        for t in range(seconds)
    ]


@pytest.mark.parametrize("growth", [0.0, 1.5, -1.5])
def test_the_slope_is_what_processes_grow_by_after_their_start(growth: float) -> None:
    slope = slope_of([*life(1, growth), *life(2, growth, start=900), *life(3, 99, seconds=110)])
    assert slope is not None and slope.low < growth < slope.high
    assert (slope.low < 0 < slope.high) == (growth == 0)
    assert slope.high - slope.low < 0.5


def test_a_short_life_has_no_slope() -> None:
    assert slope_of([]) is None and slope_of(life(1, 0, seconds=110)) is None


def test_a_memory_log_has_a_column_for_each_process_of_a_kind(tmp_path: Path) -> None:
    pids = {"driver": [os.getpid()], "actor": [os.getpid(), 2**22 + 1]}
    log = MemoryLog(lambda: pids)
    with log.running(every_s=0.01):
        while len(log.samples) < 4:
            time.sleep(0.01)
    assert log.write(tmp_path / "memory.csv") == ["actor 1", "driver 1"]
    with (tmp_path / "memory.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["driver 1"]) == pytest.approx(resident_mib(os.getpid()), rel=0.5)


def test_only_processes_of_ours_can_be_found() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = descendants()
        assert child.pid in found and os.getpid() not in found and 1 not in found
    finally:
        child.communicate(b"\n")
    assert child.pid not in descendants()


def test_faults_follow_from_the_seed_and_each_kind_comes() -> None:
    assert faults(10, 1) == faults(10, 1) != faults(10, 2)
    assert sorted(faults(10, 1)) == sorted(DECK) and FROZEN not in faults(10, 1)
    assert set(faults(100, 1)) == set(KINDS) and len(faults(100, 1)) == 100
    assert faults(0, 1) == []


def row(name: str, status: str = "done", total: str = "x") -> dict[str, object]:
    reason = None if status == "done" else "fetch_error"
    return {"id": name, "status": status, "reason": reason, "image_sha256": total}


def test_an_audit_finds_what_is_lost_doubled_strange_changed_and_not_done() -> None:
    rows = [row("a"), row("a"), row("b"), row("c"), row("d", "failed"), row("z")]
    found = compare(["a", "b", "c", "d", "e"], rows, {"a": "x", "b": "y", "c": None, "z": "x"})
    assert found.lost == ["e", "c"]
    assert (found.doubled, found.strange, found.changed) == (["a"], ["z"], ["b"])
    assert found.not_done == {"failed: fetch_error": 1}


def test_an_audit_of_a_whole_run_finds_nothing_and_compares_images() -> None:
    good = compare(["a", "b"], [row("a"), row("b")], {"a": "x", "b": "x"})
    assert not (good.lost or good.doubled or good.strange or good.changed or good.not_done)
    other = compare(["a", "b"], [row("a"), row("b", total="y")], {"a": "x", "b": "y"})
    assert good.differences(good) == [] and other.differences(good) == ["b"]
