"""The denoiser: its time embedding, its flags, and what fresh and bf16 networks say."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dstc_engine.errors import WeightsError
from dstc_engine.unet import DEFAULT_MULTIPLIERS, GroupNorm32, UNet, UNetConfig, time_embedding
from tests.unit.dstc_engine import tiny

FLAGS: dict[str, object] = dict(
    image_size=256, num_channels=128, num_res_blocks=1, attention_resolutions="16,8"
)


def test_time_embedding() -> None:
    embedded = time_embedding(torch.tensor([0.0, 500.0]), 8)
    assert embedded[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    for k in range(4):
        angle = 500 / 10_000 ** (k / 4)
        assert float(embedded[1, k]) == pytest.approx(math.cos(angle), abs=1e-4)
        assert float(embedded[1, 4 + k]) == pytest.approx(math.sin(angle), abs=1e-4)


def test_a_fresh_network_predicts_nothing(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 16, 16, generator=generator)
    with torch.no_grad():
        output = UNet(tiny.UNET)(x, torch.tensor([3.0, 900.0]))
    assert output.shape == (2, 6, 16, 16) and not output.any()


def test_time_and_every_pixel_matter(generator: torch.Generator) -> None:
    x = torch.randn(1, 3, 16, 16, generator=generator)
    unet = tiny.make_unet()
    with torch.no_grad():
        early, late = (unet(x, torch.tensor([t])) for t in (10.0, 900.0))
        assert (early - late).abs().mean() > 1e-3
        moved = x.clone()
        moved[0, 0, 0, 0] += 1
        # Attention carries one corner's change to the other.
        assert (unet(moved, torch.tensor([10.0])) - early)[0, :, -1, -1].any()


def test_group_norm_of_bf16_is_taken_in_float32(generator: torch.Generator) -> None:
    norm = GroupNorm32(32)
    x = (300 + torch.randn(1, 32, 16, 16, generator=generator)).bfloat16()
    normed = norm(x)
    assert normed.dtype == torch.bfloat16
    exact = x.double().reshape(32, -1)
    exact = (exact - exact.mean(1, keepdim=True)) / exact.var(
        1, unbiased=False, keepdim=True
    ).sqrt()
    torch.testing.assert_close(normed.double().reshape(32, -1), exact, atol=0.02, rtol=0.02)


def test_classes_shift_the_embedding(generator: torch.Generator) -> None:
    unet = UNet(dataclasses.replace(tiny.UNET, classes=5))
    tiny.awaken(unet, 3)
    x = torch.randn(2, 3, 16, 16, generator=generator)[:1].expand(2, -1, -1, -1)
    with torch.no_grad():
        output = unet(x, torch.tensor([5.0, 5.0]), torch.tensor([1, 4]))
    assert (output[0] - output[1]).abs().max() > 1e-3


def test_flags_of_a_checkpoint() -> None:
    config = UNetConfig.from_flags(FLAGS)
    assert config.multipliers == DEFAULT_MULTIPLIERS[256] == (1, 1, 2, 2, 4, 4)
    assert (config.attention_resolutions, config.head_channels, config.heads) == ((16, 8), -1, 4)
    told = UNetConfig.from_flags(FLAGS | {"channel_mult": "1,2", "class_cond": True})
    assert told.multipliers == (1, 2) and told.classes == 1000


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"learn_sigma": False}, "learn_sigma is False; expected True"),
        ({"use_new_attention_order": True}, "use_new_attention_order is True; expected False"),
        ({"image_size": 96}, "channel_mult is empty; size 96 has no default"),
    ],
)
def test_flags_that_no_published_checkpoint_has(flags: dict[str, object], told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        UNetConfig.from_flags(FLAGS | flags)
