"""DINOv2 and DINOv3 as timm runs them: keys and class token, read with a hook on timm's own way."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.dinov3 import DinoV3
from tests.unit.dstc_engine import tiny

SMALL: dict[str, Any] = dict(depth=3, embed_dim=24, num_heads=2, num_classes=0)


def looked_at(kind: type[Dino], name: str, layer: int, size: int) -> tuple[Any, Any, torch.Tensor]:
    """Our features; what a hook sees of timm's own forward pass; the prepared image."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        vit: Any = timm.create_model(name, img_size=size, **SMALL)
    tiny.awaken(vit, 5)
    for name_, parameter in vit.named_parameters():
        if "gamma" in name_:
            parameter.data.fill_(0.7)
    dino = kind(vit.eval(), size, layer, tiny.MEAN, tiny.STD).requires_grad_(False)
    block = vit.blocks[layer]
    seen: dict[str, torch.Tensor] = {}
    block.attn.qkv.register_forward_hook(lambda m, i, out: seen.update(qkv=out))
    block.register_forward_hook(lambda m, i, out: seen.update(tokens=out))
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(6)) * 2 - 1
    prepared = dino.prepare(x)
    vit.forward_features(prepared)
    theirs = dict(seen)
    return dino(x), theirs, prepared


@pytest.mark.parametrize("layer", [-1, 1])
def test_dinov3_keys_come_before_the_rotation_and_without_registers(layer: int) -> None:
    ours, theirs, _ = looked_at(DinoV3, "vit_small_patch16_dinov3", layer, 64)
    keys = theirs["qkv"][..., 24:48]
    assert ours.keys.shape == (2, 1 + 16, 24), "class token and 4 x 4 patches"
    expected = torch.cat([keys[:, :1], keys[:, 5:]], dim=1)
    torch.testing.assert_close(ours.keys, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.cls, theirs["tokens"][:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 0])
def test_dinov2_has_layer_scales(layer: int) -> None:
    ours, theirs, _ = looked_at(Dino, "vit_small_patch14_dinov2", layer, 28)
    torch.testing.assert_close(ours.keys, theirs["qkv"][..., 24:48], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.cls, theirs["tokens"][:, 0], rtol=1e-5, atol=1e-5)


def test_places_reach_dinov3_by_rotation() -> None:
    """Of an image of equal patches, keys that come before the rotation are all alike."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        vit: Any = timm.create_model("vit_small_patch16_dinov3", img_size=64, **SMALL)
    tiny.awaken(vit, 5)
    dino = DinoV3(vit.eval(), 64, 0, tiny.MEAN, tiny.STD).requires_grad_(False)
    flat = torch.full((1, 3, 64, 64), 0.3)
    keys = dino(flat).keys[0, 1:]
    torch.testing.assert_close(keys, keys[:1].expand_as(keys))
