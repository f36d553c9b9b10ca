"""The search for steps and weights: candidates, objective, rounds; presets compared by group."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dstc_engine.presets import FIELDS, get_preset, with_fields
from tests.unit.dstc_engine import tiny
from tests.unit.tiny64.quality.test_emoji import data
from tiny64.quality.compare import differences
from tiny64.quality.images import image_path, translate_missing
from tiny64.quality.rows import benchmark_rows, group_of
from tiny64.quality.search import BY_HAND, PLAIN, ROUNDS, candidates, score

ROWS = benchmark_rows(data(), 8)
EVEN = {"style": 0.5, "likely": 0.5, "silhouette": 1.0, "structure": 0.01}


def values(**changes: float) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {name: np.full(len(ROWS), value) for name, value in (EVEN | changes).items()}


def test_candidates_are_presets_of_their_own_and_always_the_same() -> None:
    found = candidates(12)
    assert list(found)[: len(BY_HAND)] == list(BY_HAND) and candidates(12) == found
    assert list(candidates(ROUNDS[0][1]).items()) == list(found.items())[: ROUNDS[0][1]]
    base = get_preset("tiny64-variance")
    made = {name: with_fields(base, dict(fields)) for name, fields in found.items()}
    assert made[PLAIN] == base and len(set(made.values())) == len(found)
    assert {p.guidance_step for name, p in made.items() if name != PLAIN} == {"spherical"}
    gates = {name: -1.0 for name in FIELDS if name.startswith("gate_")}
    ships = dataclasses.replace(get_preset("tiny64"), name=base.name, **gates)
    assert made["trial"] == ships, "what ships is among the candidates"


def test_the_objective_is_the_one_written_down() -> None:
    plain = values()
    assert score(ROWS, plain, plain) == pytest.approx(0.5 - 5 * 0.01)
    assert score(ROWS, values(style=1.0), plain) == pytest.approx(0.75 - 5 * 0.01)
    assert score(ROWS, values(structure=0.02), plain) == pytest.approx(0.5 - 5 * 0.02)
    lacking = 3 * np.mean([0.93 - 0.88, 0.9 - 0.88, 0.9 - 0.88, 0.0])
    assert score(ROWS, values(silhouette=0.88), plain) == pytest.approx(0.45 - lacking)


def test_a_group_that_gets_worse_counts_although_the_mean_is_the_same() -> None:
    plain, moved = values(), values()
    groups = np.array([group_of(row) for row in ROWS])
    worse, better = groups == "openmoji to openmoji_line", groups == "fluent_3d to fluent_flat"
    assert worse.sum() == better.sum() == 4
    moved["likely"][worse], moved["likely"][better] = 0.1, 0.9
    count = len(np.unique(groups))
    assert score(ROWS, moved, plain) == pytest.approx(0.5 - 5 * 0.01 - 0.2 / count)


def test_groups_are_aligned_pairs_and_targets_of_other_vendors() -> None:
    aligned = {group_of(row) for row in ROWS if row.truth is not None}
    others = {group_of(row) for row in benchmark_rows(data(), 24) if row.truth is None}
    assert len(aligned) == 4 and "openmoji to openmoji_line" in aligned
    assert len(others) == 6 and all(name.startswith("others to ") for name in others)


def test_when_time_is_up_no_other_row_is_begun(tmp_path: Path) -> None:
    models, rows = tiny.make_models(), benchmark_rows(data(), 1)
    with pytest.raises(SystemExit, match="out of time: 0 of 4 made; run again to go on"):
        translate_missing(models, tiny.PRESET, {"ours": {}}, rows, tmp_path, 2, until=0.0)
    assert not any(image_path(tmp_path, "ours", row).exists() for row in rows)


def test_differences_are_those_of_rows() -> None:
    rng = np.random.default_rng(0)
    names = ("style", "silhouette", "both", "structure", "PSNR")
    first = {name: rng.random(len(ROWS)) for name in names}
    second = {name: of + 0.25 for name, of in first.items()}
    lines = differences(ROWS, {"old": first, "new": second}, lambda row: row.task)
    assert len(lines) == 3 * 4
    assert [line[1] for line in lines[:3]] == ["old", "new", "difference"]
    # Each row differs by the same, and so does each draw of rows.
    assert {line[3] for line in lines if line[1] == "difference"} == {"0.25 (0.25 to 0.25)"}
    assert {line[2] for line in lines} == {"8"}
