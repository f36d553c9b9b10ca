"""`--retry rejected`: rows whose files have come since are done, all others stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dstc.store.results import save_rows_so_far, write_part
from dstc.worker.attempts import Attempt
from tests.unit.dstc.one_actor import Columns, MakeJob, Write


@pytest.fixture
def manifest(write_manifest: Write, good_rows: Columns, tmp_path: Path) -> Path:
    """Six rows: two whose files are not there yet, one of them for good, and one with a bad id."""
    columns = good_rows(6)
    columns["content"][1] = str(tmp_path / "late.png")
    columns["content"][2] = str(tmp_path / "never.png")
    columns["id"][4] = "a/../b"
    return write_manifest(columns)


@pytest.mark.parametrize("retry", [None, "failed", "flagged", "rejected"])
def test_a_row_whose_file_has_come_is_done(
    make_job: MakeJob, manifest: Path, images: Path, tmp_path: Path, retry: str | None
) -> None:
    job = make_job(manifest)
    first = job.translate()
    write_part(job.run, 0, first)
    before = first.to_pylist()
    assert [row["reason"] for row in before] == [
        *(None, "missing_picture", "missing_picture"),
        *(None, "bad_id", None),
    ]
    shutil.copy(images / "p0.png", tmp_path / "late.png")
    again = make_job(manifest, retry=retry).translate().to_pylist()
    if retry == "rejected":
        assert (again[1]["status"], again[1]["reason"]) == ("done", None)
        assert (tmp_path / "run" / again[1]["image"]).is_file()
        assert [row["reason"] for row in again[2:5]] == ["missing_picture", None, "bad_id"]
    else:
        assert again[1] == before[1]
    assert [again[n] for n in (0, 3, 5)] == [before[n] for n in (0, 3, 5)], "not even the seconds"


def test_failed_rows_of_the_part_stay(make_job: MakeJob, manifest: Path) -> None:
    job = make_job(manifest)
    rows = job.translate()
    failed = rows["status"].to_pylist()
    failed[5] = "failed"
    place = rows.schema.get_field_index("status")
    write_part(job.run, 0, rows.set_column(place, rows.schema.field(place), [failed]))
    again = make_job(manifest, retry="rejected").translate().to_pylist()
    assert again[5]["status"] == "failed"


def test_what_an_attempt_that_died_had_done_counts(
    make_job: MakeJob, manifest: Path, images: Path, tmp_path: Path
) -> None:
    job = make_job(manifest)
    write_part(job.run, 0, job.translate())
    shutil.copy(images / "p0.png", tmp_path / "late.png")
    done = make_job(manifest, retry="rejected").translate()
    Attempt(job.run, 0)  # began, and never ended
    save_rows_so_far(job.run, 0, done.slice(1, 2), [1, 2])
    again = make_job(manifest, retry="rejected").translate().to_pylist()
    assert again[1] == done.to_pylist()[1]
    assert again[2]["reason"] == "missing_picture"
