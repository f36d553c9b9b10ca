"""Distances of sets, against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from dstc_engine.metrics.sets import (
    class_mean_distance,
    frechet_distance,
    kernel_distance,
    mean_distance,
)

RNG = np.random.default_rng(0)
# Whitened, so that mean and covariance are known.
_DRAWN = RNG.normal(size=(400, 4))
_CENTRED = _DRAWN - _DRAWN.mean(axis=0)
WHITE = _CENTRED @ np.linalg.inv(np.linalg.cholesky(np.cov(_CENTRED.T))).T


def test_a_set_is_at_no_distance_from_itself() -> None:
    assert frechet_distance(WHITE, WHITE)[0] == pytest.approx(0, abs=1e-6)
    assert mean_distance(WHITE, WHITE)[0] == pytest.approx(0, abs=1e-12)
    value, low, high = kernel_distance(WHITE, WHITE)
    assert low < value < high and abs(value) < 0.05


def test_frechet_distance_of_known_gaussians() -> None:
    # |m|^2 + sum (s - 1)^2, for a set that is scaled by s and moved by m.
    moved = WHITE * np.array([2.0, 1.0, 0.5, 1.0]) + np.array([1.0, 0.0, 0.0, 3.0])
    value, low, high = frechet_distance(moved, WHITE)
    assert value == pytest.approx(1 + 9 + 1 + 0.25, rel=1e-5)
    assert np.isnan([low, high]).all()
    assert mean_distance(moved, WHITE)[0] == pytest.approx(10)


def test_kernel_distance_grows_with_the_distance_and_is_the_same_each_time() -> None:
    near, far = (kernel_distance(WHITE + shift, WHITE) for shift in (0.2, 2.0))
    assert 0 < near[0] < far[0]
    assert near == kernel_distance(WHITE + 0.2, WHITE)


def test_the_interval_holds_the_distance_that_the_sets_were_drawn_with() -> None:
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ours, real = rng.normal(0.5, 1, (60, 3)), rng.normal(0, 1, (80, 3))
        _, low, high = mean_distance(ours, real)
        held += low <= 3 * 0.25 <= high
    assert held >= 34, "of 40 intervals of 95 %"


def test_distance_within_classes() -> None:
    real = np.concatenate([WHITE, WHITE + 10])
    classes = ["a"] * 400 + ["b"] * 400
    ours = np.concatenate([WHITE + 1, WHITE + 10, WHITE])
    our_classes = ["a"] * 400 + ["b"] * 400 + [None] * 400
    value, low, high = class_mean_distance(ours, real, our_classes, classes)
    assert value == pytest.approx((4 + 0) / 2)
    assert low < value < high
    assert np.isnan(class_mean_distance(ours, real, [None] * 1200, classes)).all()
    few = ["a"] * 15 + ["b"] * 400 + [None] * 785
    assert class_mean_distance(ours, real, few, classes)[0] == pytest.approx(
        np.square((ours[15:415] - WHITE - 10).mean(axis=0)).sum()
    ), "fifteen images of a class are too few"
