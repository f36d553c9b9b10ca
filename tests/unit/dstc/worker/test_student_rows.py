"""What a student's engine tells of a row, in its result row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dstc.store.ledger import count_rows
from dstc.store.results import write_part
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation
from tests.unit.dstc.one_actor import Columns, MakeJob, Write

FOUND = {"structure": 0.25, "style_cls": float("nan"), "clip": 0.5, "blur": 1.0}


class _StudentLike(FakeEngine):
    """Rows of even numbers are the student's; every fourth fails a gate."""

    def step(self) -> list[Translation]:
        return [self._told(each) for each in super().step()]

    def _told(self, translation: Translation) -> Translation:
        number = int(translation.id.rpartition("-")[2])
        if number % 2:
            return replace(translation, made_by="guided")
        failed = ("clip", "blur") if number % 4 == 0 else ()
        return replace(
            translation, made_by="student", losses=[], distances=FOUND, failed_gates=failed
        )


def test_a_result_row_tells_what_made_it_and_which_gates_it_fails(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    columns = {**good_rows(4), "id": [f"row-{n}" for n in range(4)]}
    job = make_job(write_manifest(columns), make_engine=lambda slots: _StudentLike(TINY64, slots))
    results = job.translate()
    rows = results.to_pylist()
    assert [row["made_by"] for row in rows] == ["student", "guided"] * 2
    assert [row["flagged"] for row in rows] == ["blur, clip", None, None, None]
    assert rows[2]["gate_distances"]["clip"] == 0.5 and rows[1]["gate_distances"] is None
    assert not rows[2]["losses"] and rows[1]["losses"]
    assert count_rows(results)["made_by"] == {"student": 2, "guided": 2}


@pytest.mark.parametrize("drops", [(), ("made_by", "gate_distances")])
def test_rows_of_a_part_stay_also_of_before_there_were_students(
    drops: tuple[str, ...], write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    manifest = write_manifest({**good_rows(3), "id": [f"row-{n}" for n in range(3)]})
    job = make_job(manifest, make_engine=lambda slots: _StudentLike(TINY64, slots))
    results = job.translate()
    write_part(job.run, 0, results.drop_columns(list(drops)) if drops else results)
    images = [Path(job.run.uri) / row["image"] for row in results.to_pylist()]
    written = [path.stat().st_mtime_ns for path in images]
    again = make_job(manifest, make_engine=lambda slots: _StudentLike(TINY64, slots)).translate()
    assert [path.stat().st_mtime_ns for path in images] == written
    makers = [None] * 3 if drops else ["student", "guided", "student"]
    assert again.column("made_by").to_pylist() == makers
