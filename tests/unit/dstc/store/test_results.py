from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dstc.store.packed_rows import pack_rows
from dstc.store.results import (
    OUTCOME_SCHEMA,
    RESERVED_COLUMNS,
    Outcome,
    Sample,
    read_outcome,
    read_part,
    read_rows_so_far,
    result_schema,
    result_table,
    save_rows_so_far,
    with_all_outcomes,
)
from dstc.store.run_folder import RunFolder
from dstc.worker.write_results import OUTPUT_SCHEMA, ResultParts
from dstc_engine.losses import LOSS_NAMES
from dstc_engine.request import StepLosses

ROWS = pa.table({"id": ["a", "b"], "seed": pa.array([None, 4], pa.int64()), "label": [1, 2]})


def table() -> pa.Table:
    losses = [StepLosses(1, "resample", {"structure": 0.5, "total": float("nan")})]
    done = Outcome("done", image="images/a.png", seed=9, steps=1, losses=losses)
    return result_table(ROWS, [done, Outcome("failed", "engine_error", "text", seed=4)])


def test_columns_are_those_of_the_manifest_and_of_the_result() -> None:
    assert (
        table().schema.names
        == (
            "id label status reason error image image_sha256 seed steps restarts "
            "seconds slots flagged retries losses samples placement result_boxes "
            "result_keypoints result_masks result_mask result_mask_sha256 made_by "
            "gate_distances"
        ).split()
    )
    assert table().schema == result_schema(ROWS.schema)
    assert set(table().schema.names) - {"id", "label", "seed"} == RESERVED_COLUMNS


def test_columns_of_the_manifest_with_names_of_results_are_renamed() -> None:
    rows = pa.table({"id": ["a"], "image": ["x"], "manifest_image": ["y"], "status": ["new"]})
    found = result_table(rows, [Outcome("done", image="images/a.png")]).to_pylist()[0]
    assert found["manifest_manifest_image"] == "x" and found["manifest_image"] == "y"
    assert found["manifest_status"] == "new" and found["status"] == "done"
    assert found["image"] == "images/a.png"


def test_outcomes_of_before_there_were_placements_count() -> None:
    before = table().drop_columns(OUTCOME_SCHEMA.names[-8:])
    found = with_all_outcomes(before)
    assert found.schema == OUTCOME_SCHEMA
    assert found.column("placement").null_count == 2
    assert read_outcome(found.to_pylist()[0]).placement is None
    assert repr(with_all_outcomes(table()).to_pylist()) == repr(
        table().select(OUTCOME_SCHEMA.names).to_pylist()
    )
    with pytest.raises(KeyError):
        with_all_outcomes(before.drop_columns(["flagged"]))


def test_every_loss_has_a_float32_field() -> None:
    entry = table().schema.field("losses").type.value_type
    assert [entry.field(i).name for i in range(entry.num_fields)] == ["index", "phase", *LOSS_NAMES]
    assert all(entry.field(name).type == pa.float32() for name in LOSS_NAMES)
    ((first,), none) = table().column("losses").to_pylist()
    assert first["structure"] == 0.5 and first["clip"] is None
    assert none == []


def test_samples_tell_what_the_row_tells_of_its_own_image() -> None:
    losses = [StepLosses(0, "sample", {"structure": 0.25})]
    sample = Sample(1, "samples/1/x.png", "ab", 7, 3, 0, 1.5, 4, losses)
    outcomes = [Outcome("done", seed=9, samples=[sample]), Outcome("done", seed=4)]
    rows = result_table(ROWS, outcomes)
    kind = rows.schema.field("samples").type.value_type
    of_row = {name: rows.schema.field(name).type for name in rows.schema.names}
    names = [kind.field(i).name for i in range(kind.num_fields)]
    assert names[0] == "sample" and set(names[1:]) < set(of_row)
    assert all(kind.field(name).type == of_row[name] for name in names[1:])
    (first,), none = rows.column("samples").to_pylist()
    assert none is None
    assert first["losses"][0]["structure"] == 0.25
    del first["losses"]
    assert first == {
        "sample": 1,
        "image": "samples/1/x.png",
        "image_sha256": "ab",
        "seed": 7,
        "steps": 3,
        "restarts": 0,
        "seconds": 1.5,
        "slots": 4,
    }


def test_a_row_tells_of_the_student_that_made_it() -> None:
    found = {"structure": 0.5, "style_cls": 0.25, "clip": float("nan"), "blur": 1.0}
    made = Outcome("done", seed=9, made_by="student", gate_distances=found)
    rows = result_table(ROWS, [made, Outcome("done", seed=4)])
    first, second = rows.to_pylist()
    assert first["made_by"] == "student" and first["gate_distances"]["style_cls"] == 0.25
    assert second["made_by"] is None and second["gate_distances"] is None
    assert read_outcome(first).made_by == "student"
    # A part of before there were students.
    old = rows.drop_columns(["made_by", "gate_distances"])
    again = with_all_outcomes(old)
    assert again.schema == OUTCOME_SCHEMA and again.column("made_by").null_count == 2
    assert again.column("seed").to_pylist() == [9, 4]


def test_a_derived_seed_takes_the_place_of_a_null_one() -> None:
    assert table().column("seed").to_pylist() == [9, 4]


def test_a_shard_written_twice_is_one_part(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    block = pa.table(
        {"shard": [3], "rows": [pack_rows(table())], "has_rows_so_far": [True], "replaced": [[]]},
        schema=OUTPUT_SCHEMA,
    )
    save_rows_so_far(run, 3, table(), [0, 1])
    assert ResultParts(run).write([block], None) == 2
    assert ResultParts(run).write([block, block], None) == 4
    assert run.parts() == [3]
    assert read_rows_so_far(run, 3) is None, "they are in the part now"
    assert read_part(run, 3).schema == table().schema
    assert read_part(run, 3, ["id"]).to_pylist() == [{"id": "a"}, {"id": "b"}]


def test_rows_so_far_come_back_with_their_places(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    assert read_rows_so_far(run, 3) is None
    save_rows_so_far(run, 3, table(), [5, 1])
    found = read_rows_so_far(run, 3)
    assert found is not None
    assert repr(found[0].to_pylist()) == repr(table().to_pylist()), "NaN included"
    assert found[1] == [5, 1]
    Path(run.rows_so_far(3)).write_bytes(b"half of")
    assert read_rows_so_far(run, 3) is None


def test_an_outcome_comes_back_from_its_row() -> None:
    losses = [StepLosses(1, "resample", {"structure": 0.5}), StepLosses(0, "sample", {"clip": -1})]
    sample = Sample(1, "samples/1/x.png", "ab", 7, 3, 0, 1.5, 4, losses[1:])
    done = Outcome(
        "done",
        image="retries/2/a.png",
        image_sha256="cd",
        seed=9,
        steps=2,
        restarts=1,
        seconds=0.25,
        slots=4,
        flagged="clip",
        retries=2,
        losses=losses,
        samples=[sample],
    )
    failed = Outcome("failed", "engine_error", "text", seed=4)
    assert [read_outcome(row) for row in result_table(ROWS, [done, failed]).to_pylist()] == [
        done,
        failed,
    ]
