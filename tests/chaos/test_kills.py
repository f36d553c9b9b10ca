from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.settings import Settings, make_settings
from jobs.translate import OK, run
from tests.ray_session import RAY_WARNINGS, result_rows, workers

pytestmark = RAY_WARNINGS

ROWS = 40

Columns = Callable[[int], dict[str, list[Any]]]


@pytest.fixture
def manifest(tmp_path: Path, good_rows: Columns) -> Path:
    path = tmp_path / "manifest.parquet"
    pq.write_table(pa.table(good_rows(ROWS)), path, row_group_size=9)
    return path


def settings_of(manifest: Path, output: Path, **values: Any) -> Settings:
    defaults = {"engine": "fake", "rows_per_shard": 4, "slots": 3, "fake_step_seconds": 0.05}
    return make_settings(manifest=str(manifest), output=str(output), **{**defaults, **values})


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def parts(output: Path) -> int:
    return len(list((output / "results").glob("part-*.parquet")))


def sums(output: Path) -> dict[str, str]:
    return {row["id"]: row["image_sha256"] for row in result_rows(output)}


def assert_whole(output: Path, ids: list[str]) -> None:
    rows = result_rows(output)
    assert [row["id"] for row in rows] == ids, "each manifest row has exactly one result row"
    assert {row["status"] for row in rows} == {"done"}


@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_costs_nothing(manifest: Path, tmp_path: Path, good_rows: Columns) -> None:
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    assert run(settings_of(manifest, calm, fake_step_seconds=0.0)) == OK
    killed: list[str] = []

    def kill_twice() -> None:
        for _ in range(2):
            wait_for(lambda: parts(torn) and workers(torn) - set(killed))
            worker = min(workers(torn) - set(killed))
            os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
            killed.append(worker)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    assert run(settings_of(manifest, torn, fake_step_seconds=0.1)) == OK
    killer.join()
    assert len(set(killed)) == 2, "both actors had finished shards when they were killed"
    assert_whole(torn, good_rows(ROWS)["id"])
    assert sums(torn) == sums(calm)


def test_a_killed_driver_is_continued_by_the_same_command(
    manifest: Path, tmp_path: Path, good_rows: Columns
) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "jobs.cli", "translate", str(manifest), str(output)]
    command += ["--engine", "fake", "--rows-per-shard", "4", "--slots", "3"]
    slow = [*command, "--fake-step-seconds", "0.2"]
    said = tmp_path / "stderr.txt"
    with said.open("wb") as stderr:
        driver = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_for(lambda: parts(output) >= 2 or driver.poll() is not None)
        assert driver.poll() is None, said.read_text()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    left = parts(output)
    assert 2 <= left < ROWS // 4
    kept = {path: path.stat().st_mtime_ns for path in (output / "results").glob("*.parquet")}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == OK, done.stderr
    assert_whole(output, good_rows(ROWS)["id"])
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "done stays done"
