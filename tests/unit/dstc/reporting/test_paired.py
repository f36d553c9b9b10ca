"""Two runs in numbers: which rows count, and which numbers mean the same in both."""

from __future__ import annotations

import math
from typing import Any

from dstc.reporting.beside import Beside
from dstc.reporting.paired import Paired, pair
from dstc.store.json_record import Record
from dstc.store.run_folder import RunFolder

PRESET = {"name": "a", "image_size": 64, "dino": "vit", "weight_clip": 1.0, "skip": 5}
VIT = {"name": "vit", "kind": "vit", "sha256": "ab"}


def _row(row_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": row_id, "status": "done", "seconds": 1.0, "slots": 8, **fields}


def _job(preset: dict[str, Any], *weights: dict[str, Any]) -> Record:
    return Record("job.json", {"preset": preset, "weights": list(weights)})


def _losses(*last: tuple[str, float]) -> list[dict[str, Any]]:
    step = {"index": 1, "phase": "sample", "structure": 9.0}
    return [step, {"index": 0, "phase": "sample", **dict(last)}]


def _pair(
    rows: list[dict[str, Any]], others: list[dict[str, Any]], job: Record, other_job: Record
) -> Paired:
    beside = Beside(RunFolder("/b"), other_job, Record("", {}), {row["id"]: row for row in others})
    return pair(rows, [{}] * len(rows), job, [{}, {}], beside, is_sample=False)


def _lines(paired: Paired) -> dict[str, tuple[str, str, str, int]]:
    return {line.name: (line.here, line.there, line.better, line.rows) for line in paired.lines}


def test_counts_are_of_rows_in_both_and_means_of_those_that_have_the_number() -> None:
    job = _job(PRESET, VIT)
    rows = [
        _row("a", losses=_losses(("structure", 1.0), ("total", 5.0)), flagged="range"),
        _row("b", losses=_losses(("structure", 3.0), ("clip", math.nan)), seconds=4.0),
        _row("c", losses=_losses(("structure", 70.0)), seconds=2.0, gate_distances="a"),
        _row("d", status="failed", seconds=0.0),
        _row("only here"),
        _row("a", status="rejected"),
    ]
    others = [
        _row("a", losses=_losses(("structure", 2.0), ("total", 6.0)), slots=64),
        _row("b", losses=_losses(("structure", 5.0), ("clip", 1.0)), slots=64),
        _row("c", made_by="student", slots=64, gate_distances={"structure": 1.0}),
        _row("d"),
    ]
    paired = _pair(rows, others, job, job)
    assert (paired.looked_for, paired.in_both, paired.with_images) == (6, 4, 3)
    assert _lines(paired) == {
        "done": ("3", "4", "", 4),
        "flagged": ("1", "0", "", 4),
        "made by a student": ("0", "1", "", 4),
        "median seconds in a slot": ("2 (8 slots)", "1 (64 slots)", "", 3),
        "last loss structure": ("2", "3.5", "lower", 2),
    }


def test_losses_are_compared_only_where_they_are_the_same_function_of_an_image() -> None:
    rows = [_row("a", losses=_losses(("structure", 1.0)), gate_distances={"blur": 1.0})]
    job = _job(PRESET, VIT)

    def has_losses(preset: dict[str, Any], *weights: dict[str, Any]) -> bool:
        names = set(_lines(_pair(rows, rows, job, _job(preset, *weights))))
        assert ("distance blur" in names) == ("last loss structure" in names)
        return "last loss structure" in names

    assert has_losses({**PRESET, "name": "b", "weight_clip": 2.0, "skip": 9}, VIT)
    assert has_losses(PRESET, VIT, {"name": "s", "kind": "student", "sha256": "cd"})
    assert has_losses(PRESET), "a network that was never loaded judged nothing"
    assert not has_losses(PRESET, {**VIT, "sha256": "cd"})
    assert not has_losses({**PRESET, "image_size": 256}, VIT)
    assert not has_losses({**PRESET, "new_field": 1}, VIT)
    assert not has_losses({}, VIT), "nothing is known of that run"


def test_metrics_are_compared_where_the_same_networks_judged() -> None:
    rows = [_row("a"), _row("b")]
    beside = Beside(
        RunFolder("/b"),
        _job({}),
        Record("", {}),
        {row["id"]: row for row in rows},
        measures={"a": {"clip_score": 0.5}, "b": {"clip_score": 0.7}},
    )
    measures = [{"clip_score": 0.1, "alone": 1.0}, {"clip_score": 0.3}]
    same, other = {"dino": "x"}, {"dino": "y"}
    paired = pair(rows, measures, _job({}), [same, same], beside, is_sample=True)
    assert _lines(paired)["clip_score"] == ("0.2", "0.6", "higher", 2)
    assert "alone" not in _lines(paired)
    for judging in ([same, other], [{}, {}]):
        found = pair(rows, measures, _job({}), judging, beside, is_sample=True)
        assert "clip_score" not in _lines(found)
