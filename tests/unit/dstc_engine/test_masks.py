"""Masks along the chain and in the finished image: inside is translated, outside is kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dstc_engine.crops import CropRange
from dstc_engine.engine import finish_image
from dstc_engine.image import fit as fit_image
from dstc_engine.image import unpad
from dstc_engine.models import Models
from dstc_engine.noise import RowNoise
from dstc_engine.request import Translation
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import PRESET, SIZE, assert_same, half_mask, request, run

KINDS = ("text", "image", "both")
CROPS = CropRange(count=PRESET.crops, rotation=10.0, scale=(0.8, 1.0), ratio=(0.9, 1.1), flip=0.5)


@pytest.fixture(scope="module")
def alone(models: Models) -> dict[str, Translation]:
    """Each kind of row, without a mask."""
    return {kind: run(models, [request(kind, 1)])[f"{kind}-1"] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_outside_the_mask_the_content_is_untouched(kind: str, models: Models) -> None:
    row = request(kind, 5, mask=half_mask())
    image = run(models, [row])[row.id].image
    assert image is not None
    assert np.array_equal(image[:, SIZE // 2 :], row.content[:, SIZE // 2 :])
    inside = image[:, : SIZE // 2] != row.content[:, : SIZE // 2]
    assert inside.mean() > 0.5


def test_a_soft_mask_blends(models: Models) -> None:
    row = request("image", 5, mask=np.full((SIZE, SIZE), 51, np.uint8))
    row_in_full = dataclasses.replace(row, mask=np.full((SIZE, SIZE), 255, np.uint8))
    fully = run(models, [row_in_full])[row.id].image
    assert fully is not None
    # With one step and no going back the mask acts on the finished image alone.
    short = dataclasses.replace(PRESET, skip=19, resample=1)
    fully, partly = (run(models, [r], short)[row.id].image for r in (row_in_full, row))
    assert fully is not None and partly is not None
    expected = 0.2 * fully.astype(float) + 0.8 * row.content
    assert np.abs(partly - expected).max() <= 0.5 + 1e-6


class Silent(RowNoise):
    """No noise at all for what lies outside the mask."""

    def mask(self) -> Tensor:
        return torch.zeros(3, SIZE, SIZE)


def test_along_the_chain_the_outside_is_the_content_at_the_same_noise_level(
    models: Models,
) -> None:
    row = request("image", 6, mask=half_mask())
    inputs: list[Tensor] = []
    handle = models.unet.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    run(models, [row], make_noise=lambda _: Silent(row.seed, SIZE, CROPS))
    handle.remove()
    times = np.round(np.linspace(0, 999, 20)).astype(int)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[times]
    content = torch.from_numpy(row.content / 127.5 - 1).permute(2, 0, 1)
    for x, index in zip(inputs[1:], [4, 3, 2, 1, 0], strict=True):
        outside = x[0, :, :, SIZE // 2 :].double()
        torch.testing.assert_close(
            outside, abar[index] ** 0.5 * content[:, :, SIZE // 2 :], atol=1e-5, rtol=0
        )


MASKED: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "ddim": {"sampler": "ddim"},
    "restarts": {"range_restart": True, "range_restart_limit": 0.0, "max_restarts": 1},
    "matched": {"match_colours": True},
    "no-resampling": {"resample": 1},
}


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("variant", MASKED)
def test_black_stays_the_fitted_content_to_the_pixel(
    variant: str, fit: str, models: Models
) -> None:
    preset = dataclasses.replace(PRESET, fit=fit, **MASKED[variant])
    # Edges that run through pixels of the result: 40 x 30 becomes 16 x 16, or 16 x 12.
    mask = np.zeros((40, 30), np.uint8)
    mask[13:, 4:17] = 255
    row = request("both", 5, content=tiny.image(1, 40, 30), mask=mask)
    ended = run(models, [request("image", 1), row], preset)[row.id]
    image = ended.image
    assert ended.restarts == (variant == "restarts") and image is not None
    content = fit_image(row.content, SIZE, fit)
    if fit == "pad":
        content = unpad(content, 40, 30)
    assert image.shape == content.shape
    # Independently of the code: the parts of the mask that a pixel may cover, and one more around.
    rows, columns = image.shape[:2]
    step = 30 / SIZE if fit == "crop" else 40 / SIZE
    skip = (40 - 30) / 2 if fit == "crop" else 0
    checked = 0
    for y in range(rows):
        for x in range(columns):
            low_y, low_x = int(skip + y * step), int(x * step)
            part = mask[low_y : low_y + 4, low_x : low_x + 4]
            if not part.any():
                checked += 1
                assert np.array_equal(image[y, x], content[y, x])
    assert checked > rows * columns / 3
    inside = image[rows // 2 + 1 : -1, 5:7] != content[rows // 2 + 1 : -1, 5:7]
    assert inside.mean() > 0.5


def test_a_mask_that_leaves_nothing_to_translate_costs_no_step(
    models: Models, alone: dict[str, Translation]
) -> None:
    calls: list[int] = []
    handle = models.unet.register_forward_hook(lambda *_: calls.append(1))
    content = tiny.image(1, 24, 36)
    for fit, shape in (("crop", (16, 16, 3)), ("pad", (11, 16, 3))):
        preset = dataclasses.replace(PRESET, fit=fit)
        black = np.zeros((24, 36), np.uint8)
        corner = black.copy()
        if fit == "crop":
            corner[:, :5] = 255  # which is cropped off
        for mask in (black, corner):
            row = request("both", 5, content=content, mask=mask)
            ended = run(models, [row], preset)[row.id]
            assert (ended.status, ended.steps, ended.losses) == ("done", 0, [])
            assert ended.image is not None and ended.image.shape == shape
            fitted = fit_image(content, SIZE, fit)
            fitted = unpad(fitted, 24, 36) if fit == "pad" else fitted
            assert np.array_equal(ended.image, fitted)
    handle.remove()
    assert not calls
    # More of them than slots, before, among and behind a row that runs.
    blacks = [request("text", n, mask=np.zeros((SIZE, SIZE), np.uint8)) for n in range(20, 28)]
    ended_all = run(models, [*blacks[:5], request("both", 1), *blacks[5:]])
    assert len(ended_all) == 9
    assert_same(ended_all["both-1"], alone["both"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_white_mask_is_no_mask_to_the_last_bit(
    kind: str, models: Models, alone: dict[str, Translation]
) -> None:
    white = request(kind, 1, mask=np.full((SIZE, SIZE), 255, np.uint8))
    assert_same(run(models, [white])[white.id], alone[kind])


def test_colors_are_matched_inside_the_mask_only() -> None:
    preset = dataclasses.replace(PRESET, match_colours=True, color_match_range="clip")
    generator = torch.Generator().manual_seed(1)
    x0 = 0.4 * torch.randn(3, SIZE, SIZE, generator=generator)
    style = (tiny.image(3) // 4 + 100).astype(np.uint8)
    row = request("image", 9, mask=half_mask(), style=style)
    image = finish_image(x0, row, preset)
    inside = image[:, : SIZE // 2].reshape(-1, 3)
    assert np.abs(inside.mean(0) - style.mean((0, 1))).max() < 1
    assert np.abs(inside.std(0) - style.std((0, 1))).max() < 1
    assert np.array_equal(image[:, SIZE // 2 :], row.content[:, SIZE // 2 :])
    # What lies outside, of the content or of the estimate, has no say in it.
    x0[:, :, SIZE // 2 :] = 1.0
    other = dataclasses.replace(row, content=255 - row.content)
    assert np.array_equal(finish_image(x0, other, preset)[:, : SIZE // 2], image[:, : SIZE // 2])


def test_padding_has_no_say_in_matched_colors() -> None:
    preset = dataclasses.replace(PRESET, match_colours=True, color_match_range="clip", fit="pad")
    x0 = 0.4 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    style = (tiny.image(3, 8, 32) // 4 + 100).astype(np.uint8)
    row = request("image", 9, content=tiny.image(1, 24, 36), style=style)
    image = finish_image(x0, row, preset)
    fitted = unpad(fit_image(style, SIZE, "pad"), 8, 32)
    assert np.abs(image.mean((0, 1)) - fitted.mean((0, 1))).max() < 1
