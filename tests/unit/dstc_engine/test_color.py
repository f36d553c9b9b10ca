"""Colour matching: mean, covariance, and images that have none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc_engine.color import match_colours, transport_map

Matrix = npt.NDArray[np.float64]


def colors(seed: int, center: tuple[int, int, int], spread: float = 12.0) -> npt.NDArray[np.uint8]:
    """An image of correlated colours that stay clear of 0 and 255."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(3, 3)) / 2
    values = np.array(center) + spread * np.clip(rng.normal(size=(64, 80, 3)) @ mix, -3, 3)
    return np.rint(values).astype(np.uint8)


def moments(image: npt.NDArray[np.uint8]) -> tuple[Matrix, Matrix]:
    flat = image.reshape(-1, 3).astype(float)
    centerd = flat - flat.mean(0)
    return flat.mean(0), centerd.T @ centerd / (len(flat) - 1)


@pytest.mark.parametrize("seed", range(5))
def test_mean_and_covariance_become_those_of_the_style(seed: int) -> None:
    image, style = colors(seed, (120, 90, 150)), colors(seed + 50, (140, 130, 100))
    matched = match_colours(image, style)
    assert matched.shape == image.shape and matched.dtype == np.uint8
    (mean, covariance), (wanted_mean, wanted) = moments(matched), moments(style)
    # Rounding to levels adds a variance of 1/12.
    np.testing.assert_allclose(mean, wanted_mean, atol=0.05)
    np.testing.assert_allclose(covariance, wanted + np.eye(3) / 12, atol=0.03 * wanted.max())


def covariance_of(numbers: list[float]) -> Matrix:
    factor = np.array(numbers).reshape(3, 3)
    return factor @ factor.T + 0.5 * np.eye(3)


nine = st.lists(st.floats(-5, 5), min_size=9, max_size=9).map(covariance_of)


@given(nine, nine)
@settings(deadline=None, derandomize=True, database=None, max_examples=25)
def test_the_map_is_symmetric_positive_and_carries_the_covariance(a: Matrix, b: Matrix) -> None:
    moved = transport_map(a, b)
    np.testing.assert_allclose(moved, moved.T, atol=1e-8)
    assert np.linalg.eigvalsh(moved).min() > 0
    np.testing.assert_allclose(moved @ a @ moved, b, rtol=1e-6, atol=1e-6 * b.max())


def test_closed_forms_of_the_map() -> None:
    spread = np.diag([1.0, 4.0, 9.0])
    np.testing.assert_allclose(transport_map(spread, spread), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(transport_map(spread, 4 * spread), 2 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(
        transport_map(spread, np.eye(3)), np.diag([1, 1 / 2, 1 / 3]), atol=1e-12
    )


def test_matching_oneself_changes_nothing() -> None:
    image = colors(1, (120, 100, 140))
    assert np.array_equal(match_colours(image, image), image)


def test_images_of_one_color() -> None:
    flat = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    other = np.full((5, 9, 3), (90, 80, 70), np.uint8)
    assert (match_colours(flat, other) == (90, 80, 70)).all()
    varied = colors(2, (120, 100, 140))
    assert np.abs(match_colours(varied, other).astype(int) - (90, 80, 70)).max() <= 1
    mean = np.rint(varied.reshape(-1, 3).mean(0))
    assert np.abs(match_colours(flat, varied).astype(float) - mean).max() <= 1


def normalized(values: Matrix) -> Matrix:
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("seed", range(4))
def test_stretching_is_the_official_color_match(seed: int) -> None:
    # Both images stretched to 0-1 over all channels, matched, and stretched again.
    image, style = colors(seed, (120, 90, 150)), colors(seed + 50, (140, 130, 100))
    one, other = (normalized(of.reshape(-1, 3).astype(float)) for of in (image, style))
    moved = (one - one.mean(0)) @ transport_map(np.cov(one.T), np.cov(other.T)) + other.mean(0)
    expected = np.rint(255 * normalized(moved)).reshape(image.shape)
    matched = match_colours(image, style, stretch=True)
    assert np.abs(matched - expected).max() <= 1 and (matched == expected).mean() > 0.99
    assert (matched.min(), matched.max()) == (0, 255)
    assert np.abs(matched.astype(int) - match_colours(image, style)).max() > 20


def test_only_what_counts_is_stretched() -> None:
    image, style = colors(1, (120, 90, 150)), colors(2, (140, 130, 100))
    image[:, :40] = 255  # kept by the mask
    share = np.ones(image.shape[:2])
    share[:, :40] = 0
    inside = match_colours(image, style, share, stretch=True)[:, 40:]
    alone = match_colours(image[:, 40:], style, stretch=True).astype(int)
    # Shares divide by the count of pixels, the plain covariance by one less.
    assert np.abs(inside - alone).max() <= 1 and (inside.min(), inside.max()) == (0, 255)


def test_what_has_no_range_is_not_stretched() -> None:
    flat, grey = np.full((8, 8, 3), 100, np.uint8), np.full((5, 9, 3), 80, np.uint8)
    assert (match_colours(flat, grey, stretch=True) == 80).all()


def test_levels_are_clipped_and_do_not_wrap() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    bright = np.where(ramp > 127, 255, 0).astype(np.uint8)
    matched = match_colours(ramp, bright)
    flat = matched.reshape(-1, 3)[:, 0].astype(int)
    assert (np.diff(flat) >= 0).all() and (flat[0], flat[-1]) == (0, 255)
