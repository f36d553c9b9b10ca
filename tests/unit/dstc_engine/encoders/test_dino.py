"""Keys and class token against hooks on timm's own forward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.dino import Dino
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
