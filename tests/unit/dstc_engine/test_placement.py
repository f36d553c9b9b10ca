from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dstc_engine.decoding import read
from dstc_engine.decoding.frame import Frame
from dstc_engine.decoding.read import read_image
from dstc_engine.image import fit, fit_labels, unpad
from dstc_engine.placement import Placement
from dstc_engine.polygons import area, clip_polygon

frames = st.builds(
    Frame,
    stored_width=st.integers(2, 3000),
    stored_height=st.integers(2, 3000),
    orientation=st.integers(1, 8),
    halving=st.sampled_from([1, 2]),
)
placements = st.builds(
    Placement.of, frames, st.integers(8, 512), st.sampled_from(["crop", "pad", "whole"])
)
shares = st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))


def scaled(shares: object, width: float, height: float) -> np.ndarray:
    return np.asarray(shares, np.float64).reshape(-1, 2) * [width, height]


@settings(deadline=None, max_examples=50)
@given(placements, st.lists(shares, max_size=8))
def test_points_come_back(placement: Placement, at: list[tuple[float, float]]) -> None:
    points = scaled(at, placement.content_width, placement.content_height)
    there = placement.points_to_result(points)
    np.testing.assert_allclose(placement.points_to_content(there), points, atol=1e-6)
    np.testing.assert_allclose(placement.stored(placement.upright(points)), points, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(placements)
@example(Placement.of(Frame(2, 3, 1, 2), 8, "pad"))
def test_the_result_is_filled_by_the_content_and_by_nothing_else(placement: Placement) -> None:
    size = [placement.result_width, placement.result_height]
    corners = placement.points_to_content([[0, 0], size])
    whole = [placement.content_width, placement.content_height]
    # Halving rounds up: the last pixel reaches beyond an odd edge by half.
    slack = 1.0 + 1e-6
    assert (corners >= -slack).all() and (corners <= np.array(whole) + slack).all()
    if placement.fit in ("pad", "whole"):
        missing = np.abs(placement.points_to_result([whole])[0] - size)
        assert (missing <= np.array([placement.scale_x, placement.scale_y]) + 1e-6).all()


@settings(deadline=None, max_examples=50)
@given(placements, st.lists(st.tuples(shares, shares), max_size=8))
def test_boxes_are_clipped_and_the_share_inside_is_told(
    placement: Placement, at: list[tuple[tuple[float, float], tuple[float, float]]]
) -> None:
    points = scaled(at, placement.content_width, placement.content_height).reshape(-1, 2, 2)
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    clipped, inside = placement.boxes_to_result(boxes)
    limit = np.tile([placement.result_width, placement.result_height], 2)
    assert (clipped >= 0).all() and (clipped <= limit).all()
    assert ((inside >= 0) & (inside <= 1 + 1e-9)).all()
    back = placement.boxes_to_content(clipped)
    whole = inside > 1 - 1e-12
    np.testing.assert_allclose(back[whole], boxes[whole], atol=1e-6)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = np.prod(back[:, 2:] - back[:, :2], axis=1)
    has_area = areas > 1e-3
    np.testing.assert_allclose(
        (kept / np.maximum(areas, 1e-9))[has_area], inside[has_area], atol=1e-4
    )


def test_a_point_is_a_box_without_sides() -> None:
    placement = Placement.of(Frame(20, 10), 10, "crop")
    clipped, inside = placement.boxes_to_result([[10, 5, 10, 5], [1, 5, 1, 5], [0, 5, 20, 5]])
    assert inside.tolist() == [1, 0, 0.5]
    assert clipped[0].tolist() == [5, 5, 5, 5]


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 60), st.integers(3, 60), st.sampled_from(["crop", "pad"]))
def test_masks_follow_the_pixels_of_fit(width: int, height: int, mode: str) -> None:
    labels = (np.arange(width * height) % 7).reshape(height, width).astype(np.uint8)
    placement = Placement.of(Frame(width, height), 16, mode)
    placed = placement.mask_to_result(labels)
    fitted = fit_labels(labels, 16, mode)
    expected = unpad(fitted, height, width) if mode == "pad" else fitted
    assert placed.shape == expected.shape
    # Both take what lies at the middle; on the line between two pixels either will do.
    middles = placement.points_to_content(
        np.stack(
            np.meshgrid(np.arange(placed.shape[1]) + 0.5, np.arange(placed.shape[0]) + 0.5), -1
        )
    ).reshape(*placed.shape, 2)
    is_clear = (np.abs(middles - np.round(middles)) > 1e-6).all(axis=-1)
    assert (placed == expected)[is_clear].all()
    back = placement.mask_to_content(placed, outside=255)
    assert back.shape == labels.shape
    assert set(np.unique(back)) <= {*np.unique(placed), 255}


def test_a_mask_of_another_size_is_refused() -> None:
    placement = Placement.of(Frame(20, 10), 10, "crop")
    with pytest.raises(ValueError, match="mask of 10 x 20 pixels; expected the content's 20 x 10"):
        placement.mask_to_result(np.zeros((20, 10)))
    with pytest.raises(ValueError, match="expected the result's 10 x 10"):
        placement.mask_to_content(np.zeros((20, 10)))


def spot(width: int, height: int, x: int, y: int, side: int) -> Image.Image:
    """Black, with a white square."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y : y + side, x : x + side] = 255
    return Image.fromarray(pixels)


def middle(pixels: np.ndarray) -> tuple[float, float]:
    weights = pixels[..., 0].astype(float)
    ys, xs = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    return float((xs * weights).sum() / weights.sum()), float((ys * weights).sum() / weights.sum())


@settings(deadline=None, max_examples=40)
@example(width=97, height=61, orientation=6, is_large=True, mode="pad")
@example(width=97, height=61, orientation=3, is_large=True, mode="crop")
@given(
    width=st.integers(60, 100),
    height=st.integers(60, 100),
    orientation=st.integers(1, 8),
    is_large=st.booleans(),
    mode=st.sampled_from(["crop", "pad"]),
)
def test_what_is_seen_lies_where_the_placement_says(
    width: int, height: int, orientation: int, is_large: bool, mode: str
) -> None:
    """Through a file with EXIF, read as a content is, halved where it counts as large."""
    x, y, side = width // 2 - 10, height // 2 - 5, 12
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    spot(width, height, x, y, side).save(file, "PNG", exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        if is_large:
            patch.setattr(read, "_WHOLE_PIXELS", 1)
            patch.setattr(read, "_LEAST_SIDE", 1)
        decoded = read_image(file.getvalue())
    assert decoded.frame is not None
    assert decoded.frame.halving == (2 if is_large else 1)
    assert decoded.frame.decoded_size == decoded.pixels.shape[1::-1]
    size = 64
    seen = fit(decoded.pixels, size, mode)
    if mode == "pad":
        seen = unpad(seen, *decoded.pixels.shape[:2])
    placement = Placement.of(decoded.frame, size, mode)
    assert seen.shape[1::-1] == (placement.result_width, placement.result_height)
    centre = placement.points_to_result(placement.upright([[x + side / 2, y + side / 2]]))[0]
    np.testing.assert_allclose(middle(seen), centre, atol=0.05)


def test_a_draft_of_a_jpeg_counts_as_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_WHOLE_PIXELS", 1)
    monkeypatch.setattr(read, "_LEAST_SIDE", 1)
    file = io.BytesIO()
    spot(97, 61, 40, 20, 16).save(file, "JPEG", quality=95)
    decoded = read_image(file.getvalue())
    assert decoded.frame == Frame(97, 61, 1, 2) and decoded.pixels.shape[:2] == (31, 49)
    placement = Placement.of(decoded.frame, 49, "whole")
    assert placement.points_to_result([[48, 28]]).tolist() == [[24, 14]]
    np.testing.assert_allclose(middle(decoded.pixels), [24, 14], atol=0.05)


@settings(deadline=None, max_examples=50)
@given(st.lists(shares, min_size=3, max_size=8))
def test_a_polygon_is_cut_at_the_edge(at: list[tuple[float, float]]) -> None:
    points = scaled(at, 40, 30)
    clipped = clip_polygon(points, 40, 30)
    assert (clipped >= -1e-9).all() and (clipped <= np.array([40, 30]) + 1e-9).all()
    is_inside = ((points >= 0) & (points <= [40, 30])).all()
    if is_inside:
        assert area(clipped) == pytest.approx(area(points))
        assert len(clipped) == len(points)


def test_areas() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    assert area(triangle) == 4 and area(triangle[:2]) == 0
    assert area(clip_polygon(triangle, 2, 2)) == 3
    assert not len(clip_polygon(triangle + 10, 2, 2))
