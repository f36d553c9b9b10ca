"""Drivers that are told to end, and two that are started on one folder."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from dstc.end_command import TERMINATED, UNUSABLE
from dstc.status import read_status
from dstc.translate import OK, run
from tests.chaos.runs import (
    ROWS,
    Columns,
    Driver,
    assert_whole,
    parts,
    settings_of,
    wait_for,
    write_rows,
)
from tests.outcomes import outcome
from tests.ray_session import RAY_WARNINGS

pytestmark = [RAY_WARNINGS, pytest.mark.usefixtures("ray_session")]

SLOW = ("--fake-step-seconds", "0.2")


@pytest.fixture
def manifest(tmp_path: Path, good_rows: Columns) -> Path:
    return write_rows(tmp_path, good_rows(ROWS))


def test_a_driver_told_to_end_gives_back_quickly_and_is_continued(
    manifest: Path, tmp_path: Path, good_rows: Columns
) -> None:
    output, calm = tmp_path / "run", tmp_path / "calm"
    driver = Driver(manifest, output, *SLOW)
    wait_for(lambda: len(parts(output)) >= 2 or driver.process.poll() is not None)
    asked = time.monotonic()
    driver.process.send_signal(signal.SIGTERM)
    code, said = driver.end()
    assert code == TERMINATED, said
    # KubeRay and spot nodes give 30 s; a busy machine takes a few to end its Ray.
    assert time.monotonic() - asked < 25
    assert "told to end; the same command continues" in said
    assert not (output / "lease.json").exists(), "the next driver need not wait"
    status = read_status(str(output))
    assert status.state == "stopped" and 8 <= status.done < ROWS
    kept = {part: part.stat().st_mtime_ns for part in parts(output)}

    code, said = Driver(manifest, output).end()
    assert code == OK, said
    assert_whole(output, good_rows(ROWS)["id"])
    assert all(part.stat().st_mtime_ns == at for part, at in kept.items()), "done stays done"
    assert run(settings_of(manifest, calm, fake_step_seconds=0.0)) == OK
    assert outcome(output)[1] == outcome(calm)[1]


def test_of_two_drivers_on_one_folder_one_works_and_the_other_says_so(
    manifest: Path, tmp_path: Path, good_rows: Columns
) -> None:
    output = tmp_path / "run"
    drivers = [Driver(manifest, output, *SLOW) for _ in range(2)]
    ends: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda d=d: ends.append(d.end())) for d in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first_code, first_said), (second_code, second_said) = sorted(ends)
    assert (first_code, second_code) == (OK, UNUSABLE), first_said + second_said
    working = [str(d.process.pid) for d in drivers if d.process.returncode == OK]
    assert f"process {working[0]}) is at work on it" in second_said
    assert_whole(output, good_rows(ROWS)["id"])
    attempts = [json.loads(p.read_text())["attempt"] for p in (output / "stats").glob("*.json")]
    assert set(attempts) == {1}, "no shard was started by both"
