"""A disk that is full: a real one, of two megabytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.translate import OK, run
from tests.chaos.runs import ROWS, Columns, assert_whole, parts, settings_of, write_rows
from tests.outcomes import outcome
from tests.ray_session import RAY_WARNINGS

pytestmark = [RAY_WARNINGS, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for some of the pictures (12 KB each)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=220k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_job_and_loses_nothing(
    disk: Path, tmp_path: Path, good_rows: Columns
) -> None:
    columns = good_rows(ROWS)
    manifest = write_rows(tmp_path, columns)
    output, calm = disk / "run", tmp_path / "calm"
    settings = settings_of(manifest, output, fake_step_seconds=0.0)
    with pytest.raises(JobError, match=r"cannot be written: .*No space left.*same command"):
        run(settings)
    assert len(parts(output)) < ROWS // 4
    assert not list(output.rglob("*.tmp")), "no half-written file takes up the little room there is"

    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert run(settings) == OK
    assert_whole(output, columns["id"])
    assert run(settings_of(manifest, calm, fake_step_seconds=0.0)) == OK
    assert outcome(output) == outcome(calm)
