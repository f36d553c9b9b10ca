"""A disk that is full: a real one, of two megabytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstc.errors import JobError
from dstc.translate import OK, run
from tests.chaos.runs import ROWS, Columns, assert_whole, parts, settings_of, write_rows
from tests.outcomes import outcome
from tests.ray_session import RAY_WARNINGS
from tests.small_disk import SmallDisk, small_disk

__all__ = ["small_disk"]

pytestmark = [RAY_WARNINGS, pytest.mark.usefixtures("ray_session")]


def test_a_full_disk_ends_the_job_and_loses_nothing(
    small_disk: SmallDisk, tmp_path: Path, good_rows: Columns
) -> None:
    columns = good_rows(ROWS)
    manifest = write_rows(tmp_path, columns)
    output, calm = small_disk.folder / "run", tmp_path / "calm"
    settings = settings_of(manifest, output, fake_step_seconds=0.0)
    with pytest.raises(JobError, match=r"cannot be written: .*No space left.*same command"):
        run(settings)
    assert len(parts(output)) < ROWS // 4
    assert not list(output.rglob("*.tmp")), "no half-written file takes up the little room there is"

    small_disk.resize(20_000)
    assert run(settings) == OK
    assert_whole(output, columns["id"])
    assert run(settings_of(manifest, calm, fake_step_seconds=0.0)) == OK
    assert outcome(output) == outcome(calm)
