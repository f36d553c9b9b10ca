"""Crops: what they show of an image, and how they are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import InterpolationMode, hflip, resized_crop, rotate

from dstc_engine.crops import CropRange, apply_crops, draw_crops, whole_image

PLAIN = CropRange(count=1, rotation=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(rows: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.rand(rows, 3, size, size, generator=generator)


def test_the_whole_image_is_the_image() -> None:
    shown = images(2, 16)
    cropped = apply_crops(shown, whole_image(3).expand(2, 3, 2, 3), 16)
    assert cropped.shape == (6, 3, 16, 16)
    torch.testing.assert_close(cropped, shown.repeat_interleave(3, dim=0))
    drawn = draw_crops(PLAIN, seeded(0))
    torch.testing.assert_close(drawn, whole_image(1))


def test_a_flip_mirrors_left_and_right() -> None:
    shown = images(1, 16)
    flipped = draw_crops(CropRange(1, 0.0, (1.0, 1.0), (1.0, 1.0), flip=1.0), seeded(0))
    torch.testing.assert_close(apply_crops(shown, flipped[None], 16), shown.flip(-1))


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    shown = images(1, 16)
    # rotation = 90 draws from +-90 degrees; the map of exactly 90 is written out here.
    quarter = torch.tensor([[[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]]])
    turned = apply_crops(shown, quarter, 16)
    candidates = [torch.rot90(shown, k, (-2, -1)) for k in (1, 3)]
    assert any(torch.allclose(turned, c, atol=1e-5) for c in candidates)


def test_a_quarter_of_the_area_is_half_of_each_side() -> None:
    shown = images(1, 32)
    maps = draw_crops(CropRange(16, 0.0, (0.25, 0.25), (1.0, 1.0), 0.0), seeded(3))
    corners = ((maps[:, :, 2] - 0.5 + 1) * 16).round().long()
    snapped = maps.clone()
    snapped[:, :, 2] = corners / 16 - 1 + 0.5
    cropped = apply_crops(shown, snapped[None], 16)
    for crop, (left, top) in zip(cropped, corners.tolist(), strict=True):
        expected = shown[0, :, top : top + 16, left : left + 16]
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=1e-5)


def test_outside_of_the_image_its_border_goes_on() -> None:
    shown = torch.full((1, 3, 16, 16), 0.75)
    turned = draw_crops(CropRange(8, 45.0, (1.0, 1.0), (1.0, 1.0), 0.5), seeded(1))
    torch.testing.assert_close(
        apply_crops(shown, turned[None], 16), torch.full((8, 3, 16, 16), 0.75)
    )


def smooth(side: int) -> torch.Tensor:
    """An image of slow waves, (1, 3, side, side): resampling it twice is nearly exact."""
    across = torch.linspace(0, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(across, across, indexing="ij")
    waves = [torch.sin(5 * x + 2 * y), torch.cos(4 * y - 3 * x), torch.sin(6 * x * y + 1)]
    return torch.stack(waves)[None].float()


@pytest.mark.parametrize("size", [24, 64, 96])
def test_one_map_is_a_rotation_then_a_resized_crop_then_a_flip(size: int) -> None:
    # By torchvision's transforms one after the other, with numbers read back from the map.
    side = 64
    shown = smooth(side)
    maps = draw_crops(CropRange(12, 10.0, (0.5, 0.7), (0.9, 1.1), 0.5), seeded(8))
    ours = apply_crops(shown, maps[None], size)
    margin = size // 8  # corners show what lies outside the image, differently
    flips = 0
    for crop, (one, two) in zip(ours, maps.double().numpy(), strict=True):
        mirrored = one[0] * two[1] - one[1] * two[0] < 0
        angle = math.atan2(-one[1], two[1])
        width, height = math.hypot(one[0], two[0]), math.hypot(one[1], two[1])
        # The centre in the turned image's own coordinates, -1 .. 1.
        x = math.cos(angle) * one[2] + math.sin(angle) * two[2]
        y = -math.sin(angle) * one[2] + math.cos(angle) * two[2]
        turned = rotate(shown, math.degrees(angle), InterpolationMode.BILINEAR)
        # Whole pixels are all that torchvision crops: enlarged, a pixel is fine enough.
        large = F.interpolate(turned, scale_factor=16, mode="bilinear")
        box = [(y - height + 1) / 2, (x - width + 1) / 2, height, width]
        top, left, high, wide = (round(16 * side * edge) for edge in box)
        expected = resized_crop(large, top, left, high, wide, [size, size], antialias=False)
        flips += mirrored
        expected = hflip(expected) if mirrored else expected
        inner = (..., slice(margin, -margin), slice(margin, -margin))
        torch.testing.assert_close(crop[inner], expected[0][inner], atol=0.02, rtol=0)
        assert not torch.allclose(crop[inner], expected[0].flip(-1)[inner], atol=0.1)
    assert 0 < flips < 12


shares = st.floats(0.05, 1.0)


@given(
    seed=st.integers(0, 2**32),
    scale=st.tuples(shares, shares).map(sorted),
    ratio=st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)).map(sorted),
)
@settings(deadline=None, derandomize=True, database=None, max_examples=50)
def test_without_rotation_crops_lie_within_the_image(
    seed: int, scale: list[float], ratio: list[float]
) -> None:
    ranges = CropRange(8, 0.0, scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]), flip=0.5)
    maps = draw_crops(ranges, seeded(seed)).double()
    width, height = maps[:, 0, 0].abs(), maps[:, 1, 1]
    assert (maps[:, 0, 1] == 0).all() and (maps[:, 1, 0] == 0).all()
    assert (maps[:, 0, 2].abs() + width <= 1 + 1e-6).all()
    assert (maps[:, 1, 2].abs() + height <= 1 + 1e-6).all()
    assert (height > 0).all()
    area, shape = width * height, width / height
    assert (area <= scale[1] + 1e-5).all()
    # Boxes that would stand out are cut to the image: only the others keep area and ratio.
    whole = (width < 1) & (height < 1)
    assert (area[whole] >= scale[0] - 1e-5).all()
    assert (shape[whole] >= ratio[0] - 1e-4).all() and (shape[whole] <= ratio[1] + 1e-4).all()


def test_statistics_of_many_crops() -> None:
    count = 20_000
    ranges = CropRange(count, 10.0, scale=(0.4, 0.6), ratio=(0.9, 1.1), flip=0.5)
    maps = draw_crops(ranges, seeded(0)).double()
    mirrored = maps[:, :, :2].det() < 0
    assert float(mirrored.double().mean()) == pytest.approx(0.5, abs=0.015)
    areas = maps[:, :, :2].det().abs()
    assert float(areas.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(areas.std()) == pytest.approx(0.2 / math.sqrt(12), abs=0.001)
    # The second column is the height along the turned axis: (-sin, cos) times it.
    angles = torch.rad2deg(torch.atan2(-maps[:, 0, 1], maps[:, 1, 1]))
    assert float(angles.abs().max()) <= 10.001
    assert float(angles.mean()) == pytest.approx(0, abs=0.15)
    assert float(angles.std()) == pytest.approx(20 / math.sqrt(12), abs=0.1)
    ratios = maps[:, :, 0].norm(dim=1) / maps[:, :, 1].norm(dim=1)
    assert float(ratios.min()) >= 0.8999 and float(ratios.max()) <= 1.1001
    assert float(ratios.log().mean()) == pytest.approx(
        (math.log(0.9) + math.log(1.1)) / 2, abs=0.002
    )


def test_crops_keep_their_digits_under_autocast() -> None:
    # 256 to 384 pixels, as RN50x16 sees them.
    shown = images(1, 256)
    maps = draw_crops(CropRange(2, 10.0, (0.8, 1.0), (0.9, 1.1), 0.5), seeded(5))[None]
    plain = apply_crops(shown, maps, 384)
    by_product = F.grid_sample(
        shown.repeat(2, 1, 1, 1),
        F.affine_grid(maps[0], [2, 3, 384, 384], align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    torch.testing.assert_close(plain, by_product, atol=1e-4, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply_crops(shown, maps, 384), plain)
        half = F.affine_grid(maps[0], [2, 3, 384, 384], align_corners=False)
    assert half.dtype is torch.bfloat16, "what a product would make of it"


def test_rows_are_cropped_by_their_own_maps() -> None:
    shown = images(3, 16)
    ranges = CropRange(2, 10.0, (0.8, 1.0), (0.9, 1.1), 0.5)
    maps = torch.stack([draw_crops(ranges, seeded(s)) for s in range(3)])
    together = apply_crops(shown, maps, 8)
    for row in range(3):
        single = apply_crops(shown[row : row + 1], maps[row : row + 1], 8)
        torch.testing.assert_close(together[2 * row : 2 * row + 2], single)
