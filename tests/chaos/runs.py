"""Runs to be disturbed, and what they are compared with."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.planning.settings import Settings, make_settings
from tests.ray_session import image, result_rows

ROWS = 40

Columns = Callable[[int], dict[str, list[Any]]]


def write_rows(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """A manifest whose row groups and shards do not end together."""
    path = folder / "manifest.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=9)
    return path


def settings_of(manifest: Path, output: Path, **values: Any) -> Settings:
    """Ten shards of four rows, each step of an engine taking its time."""
    defaults = {"engine": "fake", "rows_per_shard": 4, "slots": 3, "fake_step_seconds": 0.05}
    return make_settings(manifest=str(manifest), output=str(output), **{**defaults, **values})


class Driver:
    """`dstc translate` in a process of its own, with a Ray of its own.

    Args:
        manifest, output: of the run. options: more of the command line.
    """

    def __init__(self, manifest: Path, output: Path, *options: str) -> None:
        command = [sys.executable, "-m", "dstc.cli", "translate", str(manifest), str(output)]
        command += ["--engine", "fake", "--rows-per-shard", "4", "--slots", "3", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, seconds: float = 240) -> tuple[int, str]:
        """Its exit code, and what it said, once it has ended."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out + err


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    """Waits until something is so.

    Raises:
        AssertionError: it is not, even then.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def parts(output: Path) -> list[Path]:
    """Result parts that are there."""
    return sorted((output / "results").glob("part-*.parquet"))


def pixels(output: Path) -> dict[str, bytes]:
    """Each image by its row's id, without the file around it, which names the engine."""
    rows = (row for row in result_rows(output) if row["image"])
    return {row["id"]: image(output, row).tobytes() for row in rows}


def assert_whole(output: Path, ids: list[str]) -> None:
    """Each manifest row has exactly one result row, and is done."""
    rows = result_rows(output)
    assert [row["id"] for row in rows] == ids
    assert {row["status"] for row in rows} == {"done"}
