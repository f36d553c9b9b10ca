"""Every attention hands fused kernels what these take: a head's channels side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.dino import Dino
from tests.unit.dstc_engine import tiny

PIXELS = (2, 3, tiny.SIZE, tiny.SIZE)


@pytest.fixture
def strides(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Last strides of q, k and v, of each fused attention asked for."""
    seen: list[tuple[int, ...]] = []
    own = F.scaled_dot_product_attention

    def look(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(tuple(tensor.stride(-1) for tensor in (q, k, v)))
        return own(q, k, v, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", look)
    return seen


def ask(network: Any, generator: torch.Generator, *others: Tensor) -> None:
    """One look with a gradient to the image, as in guidance: without, CLIP has a fast path."""
    network.requires_grad_(False)
    seen = network(torch.randn(PIXELS, generator=generator).requires_grad_(), *others)
    assert seen.requires_grad


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("heads", [{"head_channels": 8}, {"head_channels": -1, "heads": 1}])
def test_unet(
    new_order: bool,
    channels_last: bool,
    heads: dict[str, int],
    strides: list[tuple[int, ...]],
    generator: torch.Generator,
) -> None:
    unet = UNet(dataclasses.replace(tiny.UNET, new_attention_order=new_order, **heads)).eval()
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    ask(unet, generator, torch.tensor([3.0, 900.0]))
    # One on the way down, one in the middle, two on the way up.
    assert strides == [(1, 1, 1)] * 4


def test_vit(strides: list[tuple[int, ...]], generator: torch.Generator) -> None:
    dino = Dino(tiny.make_vit(), tiny.SIZE, -1, tiny.MEAN, tiny.STD)
    dino.requires_grad_(False)
    dino(torch.randn(PIXELS, generator=generator).requires_grad_())
    assert strides == [(1, 1, 1)] * tiny.VIT["depth"]


def test_clip(strides: list[tuple[int, ...]], generator: torch.Generator) -> None:
    ask(tiny.make_clip().model.visual, generator)
    assert strides == [(1, 1, 1)] * tiny.CLIP_VISION["layers"]
