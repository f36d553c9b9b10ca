"""A pilot, a student of it and all rows, by one call."""

from __future__ import annotations

from pathlib import Path

import pytest

import dstc
from dstc.verify import verify
from tests.pilot import BRIEF, FAST, write_manifest
from tests.ray_session import RAY_WARNINGS

pytestmark = RAY_WARNINGS

ROWS, PILOT = 30, 20


@pytest.mark.usefixtures("ray_session")
def test_one_call_guides_some_rows_and_has_a_student_do_them_all(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "data", looks=2, rows=ROWS)

    def translate(pilot: int = PILOT) -> dstc.Run:
        return dstc.translate(
            manifest, tmp_path / "out", pilot=pilot, distil={**FAST, "steps": 1, "batch": 4},
            set=BRIEF, fallback="none", actors="1", device="cpu", rows_per_shard=8,
        )  # fmt: skip

    run = translate()
    table = run.table(["id", "status", "made_by"]).to_pydict()
    assert table["id"] == [str(number) for number in range(ROWS)]
    assert set(table["status"]) == {"done"} and set(table["made_by"]) == {"student"}
    assert (run.status.state, run.status.stage) == ("finished", "translate")
    teacher = dstc.open_run(tmp_path / "out" / "pilot")
    assert (teacher.status.state, teacher.status.done) == ("finished", PILOT)
    assert set(teacher.table(["style"])["style"].to_pylist()) == {
        str(tmp_path / "data" / "style" / f"{look}.png") for look in (0, 1)
    }
    for folder in (run, teacher):
        assert verify(folder.uri).is_whole and Path(folder.report()).is_file()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert translate().status.done == ROWS
    assert {path: path.stat().st_mtime_ns for path in made} == made, "nothing is done twice"
    with pytest.raises(dstc.UserError, match="pilot.rows: there 20, here 21"):
        translate(PILOT + 1)
