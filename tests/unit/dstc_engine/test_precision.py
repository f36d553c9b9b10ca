"""Weights kept in half precision give what autocast gives, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dstc_engine.precision import PRECISIONS, autocast, keep_products_in
from tests.unit.dstc_engine import tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["unet", "vit", "clip"])
def test_the_same_products_as_autocast(kind: str, generator: torch.Generator) -> None:
    made = {"unet": tiny.make_unet, "vit": tiny.make_vit, "clip": lambda: tiny.make_clip().model}
    network = made[kind]()
    network = network.visual if kind == "clip" else network
    kept = copy.deepcopy(network)
    keep_products_in(torch.bfloat16, kept)
    # With a gradient, as in guidance: without one PyTorch's attention has a way past CPU autocast.
    x = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=generator).requires_grad_()
    times = (torch.full((2,), 500.0),) if kind == "unet" else ()
    with autocast(CPU, "bf16"):
        assert torch.equal(kept(x, *times), network(x, *times))


def test_norms_stay_float32() -> None:
    unet = tiny.make_unet()
    keep_products_in(torch.bfloat16, unet)
    for module in unet.modules():
        expected = torch.float32 if isinstance(module, nn.GroupNorm) else torch.bfloat16
        for parameter in module.parameters(recurse=False):
            assert parameter.dtype == expected, type(module)


def test_fp32_casts_nothing() -> None:
    with autocast(CPU, "fp32"):
        assert not torch.is_autocast_enabled("cpu")
    assert list(PRECISIONS) == ["fp32", "bf16", "fp16"]
