"""Rows that would never end, in a job: they fail, all others are done, and the job goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstc.errors import JobError
from dstc.translate import SOME_FAILED, run
from tests.chaos.runs import ROWS, Columns, settings_of, write_rows
from tests.faulty_engines import BAD_ROW, ENDLESS_ROW, marks
from tests.ray_session import RAY_WARNINGS, result_rows

pytestmark = [RAY_WARNINGS, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def manifest(tmp_path: Path, good_rows: Columns) -> Path:
    return write_rows(tmp_path, good_rows(ROWS))


def _ends(output: Path) -> dict[str, tuple[str, str | None]]:
    return {row["id"]: (row["status"], row["reason"]) for row in result_rows(output)}


def test_rows_that_never_leave_the_engine_fail(
    manifest: Path, tmp_path: Path, good_rows: Columns
) -> None:
    output = tmp_path / "run"
    settings = settings_of(
        manifest,
        output,
        engine="tests.faulty_engines:HANGING",
        row_deadline=5,
        actors=1,
        fake_step_seconds=0.01,
    )
    assert run(settings) == SOME_FAILED
    ends = _ends(output)
    assert list(ends) == good_rows(ROWS)["id"]
    bad = {row_id: end for row_id, end in ends.items() if end != ("done", None)}
    assert bad == {row_id: ("failed", "timed_out") for row_id in (BAD_ROW, ENDLESS_ROW)}
    assert len(list(marks(output).glob("hung-*"))) == 2, "once with others, once alone"


def test_an_engine_that_quits_costs_its_row(manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = settings_of(
        manifest, output, engine="tests.faulty_engines:QUITTING", fake_step_seconds=0.0
    )
    assert run(settings) == SOME_FAILED
    bad = {row_id: end for row_id, end in _ends(output).items() if end != ("done", None)}
    assert bad == {BAD_ROW: ("failed", "engine_error")}


def test_an_engine_that_quits_while_it_is_made_ends_the_job_with_a_word(
    manifest: Path, tmp_path: Path
) -> None:
    settings = settings_of(
        manifest, tmp_path / "run", engine="tests.faulty_engines:QUITS_WHILE_LOADING", actors=1
    )
    with pytest.raises(JobError, match="SystemExit: no license"):
        run(settings)
