"""Limits of gates: how they are chosen, and what they catch."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dstc.worker.gates import GATES
from dstc.worker.row import derive_retry_seed
from dstc_engine.presets import TINY64
from dstc_engine.weights.load import load_dino
from tests.unit.tiny64.quality.test_emoji import data
from tiny64.quality.failure_sheet import Failure, choose, failure_sheet
from tiny64.quality.gate_limits import MOST_GOOD_FLAGGED, auc, catch, learn
from tiny64.quality.gates import (
    JUDGED,
    SHAPE,
    STYLE,
    ImageSet,
    failures,
    glanced,
    state_of,
    with_other_seed,
)
from tiny64.quality.rows import benchmark_rows

GOOD = np.linspace(0, 1, 20)


def labelled(good: list[float], bad: list[float]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.array([*good, *bad]), np.arange(len(good) + len(bad)) >= len(good)


def test_auc_counts_pairs() -> None:
    assert auc(*labelled([1, 2], [3, 4])) == 1
    assert auc(*labelled([3, 4], [1, 2])) == 0
    assert auc(*labelled([1, 3], [2, 3])) == 0.625, "2 > 1, 3 > 1, and 3 = 3 counts half"
    assert math.isnan(auc(*labelled([1, 3], [])))


def test_a_limit_parts_what_can_be_parted() -> None:
    losses, bad = labelled([0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 1.0, 1.1, 1.2, 1.3])
    found = learn(losses, bad)
    assert (found.auc, found.limit) == (1, 0.7)
    more = np.array([math.nan, *losses]), np.array([True, *bad])
    assert learn(*more) == found, "what was not computed has no say"


def test_few_good_images_are_flagged_whatever_it_would_catch() -> None:
    # At 0.7 all of the bad ones would be caught, and a third of the good ones.
    losses, bad = labelled([*GOOD], [0.75] * 40 + [0.97] * 5 + [2.0] * 5)
    found = learn(losses, bad)
    assert found.limit is not None
    caught = catch(losses > found.limit, bad)
    assert caught.good <= MOST_GOOD_FLAGGED and caught.bad == 0.2
    assert (caught.precision, caught.flagged, caught.images) == (pytest.approx(10 / 11), 11, 70)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([*GOOD], "does not tell"),
        ([0.0] * 10, "does not tell"),
        ([2.0] * 4, "too few: 4 bad, 20 good"),
        ([0.8] * 10, "flags over 10%"),
    ],
)
def test_no_gate_where_a_loss_tells_too_little(bad: list[float], why: str) -> None:
    found = learn(*labelled([*GOOD], bad))
    assert found.limit is None and why in found.why_not


def images() -> ImageSet:
    """Every second image misses the style, every third one the shape."""
    rows = benchmark_rows(data(), 6)
    return ImageSet(
        rows=rows,
        images=[row.request.content for row in rows],
        losses=[{"range": 0.02 * (n % 3 == 0), "clip": math.nan} for n in range(len(rows))],
        styles=[row.target if n % 2 else row.own for n, row in enumerate(rows)],
        overlaps=np.array([0.5 if n % 3 == 0 else 0.9 for n in range(len(rows))]),
    )


def test_judges_and_gates_of_images() -> None:
    found, limits = images(), {"range": 0.01, "clip": -0.5}
    assert found.bad[SHAPE].tolist() == [n % 3 == 0 for n in range(24)]
    assert found.bad[STYLE].tolist() == [n % 2 == 0 for n in range(24)]
    assert found.is_bad.sum() == 16
    assert found.flags(limits).tolist() == found.bad[SHAPE].tolist()
    found_failures = failures(found, limits)
    assert len(found_failures) == 16
    assert {(f.lost_shape, f.flagged) for f in found_failures} == {(True, "range"), (False, None)}
    assert set(JUDGED) == set(GATES)


def test_a_glance_at_kept_and_at_broken_shapes() -> None:
    kept = images()
    broken = dataclasses.replace(kept, images=[*kept.images[1:], kept.images[0]])
    dino = load_dino("emoji64-vit", size=64, layer=-1)
    with torch.no_grad():
        assert glanced(dino, kept).max() < 1e-6
        assert np.median(glanced(dino, broken)) > 1e-3


def test_the_sheet_shows_some_of_each_task_and_no_openmoji() -> None:
    shown = choose(failures(images(), {"range": 0.01}))
    assert shown and all("openmoji" not in f.row.own + f.row.target for f in shown)
    assert all(sum(f.row.task == task for f in shown) <= 2 for task in {f.row.task for f in shown})
    for failure in shown:
        assert ("style" in failure.wrong) == (failure.taken_for != failure.row.target)
        assert ("50% of the outline" in failure.wrong) == failure.lost_shape
    with Image.open(io.BytesIO(failure_sheet(failures(images(), {})))) as page:
        assert page.width > 800 and np.asarray(page.convert("L")).min() < 100


def test_a_retried_row_differs_by_its_seed_alone() -> None:
    row = benchmark_rows(data(), 1)[0]
    again = with_other_seed(row)
    assert again.request.seed == derive_retry_seed(row.request.seed, 1)
    same = dataclasses.replace(again.request, seed=row.request.seed)
    assert vars(same) == vars(row.request)


def test_gates_do_not_make_images_again() -> None:
    state = state_of(TINY64, "bf16")
    assert state_of(dataclasses.replace(TINY64, gate_range=0.25), "bf16") == state
    assert state_of(dataclasses.replace(TINY64, weight_range=13.0), "bf16") != state
    assert state_of(TINY64, "fp32") != state


def test_failures_tell_the_gate() -> None:
    row = benchmark_rows(data(), 1)[0]
    whole = Failure(row, row.style, row.target, 0.75, True, None)
    assert whole.wrong == "shape: 75% of the outline kept"
