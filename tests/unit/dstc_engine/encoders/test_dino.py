"""Keys and class token against hooks on timm's own forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.dinov3 import DinoV3
from dstc_engine.errors import PresetError
from tests.unit.dstc_engine import tiny


@pytest.mark.parametrize(("layer", "block"), [(-1, 1), (0, 0), (1, 1), (-2, 0)])
def test_features_are_those_of_the_blocks_own_pass(
    layer: int, block: int, generator: torch.Generator
) -> None:
    vit = tiny.make_vit()
    seen: dict[str, Tensor] = {}
    x = torch.randn(2, 3, 16, 16, generator=generator)
    with torch.no_grad():
        parts = {"block": f"blocks.{block}", "qkv": f"blocks.{block}.attn.qkv"}
        for name, path in parts.items():
            vit.get_submodule(path).register_forward_hook(
                lambda module, given, out, name=name: seen.update({name: out})
            )
        vit.forward_features(x)
        features = Dino(vit, 16, layer, tiny.MEAN, tiny.STD).features(x)
    torch.testing.assert_close(features.keys, seen["qkv"].chunk(3, dim=-1)[1])
    torch.testing.assert_close(features.cls, seen["block"][:, 0])


@pytest.mark.parametrize("layer", [2, 40, -3])
def test_a_block_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(PresetError, match=f"dino_layer is {layer}; expected -1 to 1: 2 blocks"):
        Dino(tiny.make_vit(), 16, layer, tiny.MEAN, tiny.STD)


def test_images_are_resized_by_the_shorter_side_and_normalized(
    generator: torch.Generator,
) -> None:
    dino = Dino(tiny.make_vit(), 16, -1, tiny.MEAN, tiny.STD)
    same = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    prepared = dino.prepare(same)
    for channel in range(3):
        expected = ((same[0, channel] + 1) / 2 - tiny.MEAN[channel]) / tiny.STD[channel]
        torch.testing.assert_close(prepared[0, channel], expected)
    wide = torch.rand(1, 3, 32, 64, generator=generator)
    assert dino.prepare(wide).shape == (1, 3, 16, 32)
    # Without antialiasing, halving takes the mean of 2 x 2 pixels.
    halved = F.avg_pool2d((wide + 1) / 2, 2)
    back = dino.prepare(wide) * dino.std + dino.mean
    torch.testing.assert_close(back, halved)


class EveryThird(torch.nn.Module):
    """In the place of timm's patch dropout: the patches on every third diagonal."""

    def __init__(self, prefix: int, columns: int, tells_which: bool) -> None:
        super().__init__()
        self.prefix, self.columns, self.tells_which = prefix, columns, tells_which

    def forward(self, tokens: Tensor) -> object:
        patches = tokens[:, self.prefix :].unflatten(1, (-1, self.columns))
        which = torch.arange(patches.shape[1] * self.columns).view(-1, self.columns).flip(1)
        last = self.columns - 1
        diagonals = [which.diagonal(last - n).tolist() for n in range(0, sum(which.shape), 3)]
        kept = torch.tensor(sorted(sum(diagonals, [])))
        left = torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix :][:, kept]], dim=1)
        return (left, kept.expand(len(tokens), -1)) if self.tells_which else left


@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        (Dino, "vit_small_patch16_224", 64),
        (Dino, "vit_small_patch16_224", 48),
        (DinoV3, "vit_small_patch16_dinov3", 64),
    ],
)
def test_a_glance_is_timms_own_pass_over_every_third_patch(
    kind: type[Dino], name: str, size: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        vit: Any = timm.create_model(
            name, img_size=size, depth=3, embed_dim=24, num_heads=2, num_classes=0
        )
    tiny.awaken(vit, 5)
    dino = kind(vit.eval(), size, -1, tiny.MEAN, tiny.STD).requires_grad_(False)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(6)) * 2 - 1
    keys, cls = dino.glance(images, with_cls=True)
    assert dino.glance(images, with_cls=False)[1] is None
    seen: dict[str, Tensor] = {}
    vit.blocks[1].attn.qkv.register_forward_hook(lambda m, i, out: seen.update(qkv=out))
    vit.blocks[2].register_forward_hook(lambda m, i, out: seen.update(tokens=out))
    vit.patch_drop = EveryThird(vit.num_prefix_tokens, size // 16, kind is DinoV3)
    vit.forward_features(dino.prepare(images))
    of_patches = seen["qkv"][:, vit.num_prefix_tokens :, 24:48]
    expected = torch.cat([seen["qkv"][:, :1, 24:48], of_patches], dim=1)
    torch.testing.assert_close(keys, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cls, seen["tokens"][:, 0], rtol=1e-5, atol=1e-5)
