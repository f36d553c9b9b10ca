"""The denoiser: its time embedding, its variants, and what fresh and bf16 networks say."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.diffusion.unet import GroupNorm32, UNet, UNetConfig, time_embedding
from tests.unit.dstc_engine import tiny


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


# -- variants, against their arithmetic written out ------------------------------------------------


class Written:
    """The forward pass of a UNet of two levels with one block each, spelt out by tensor names."""

    def __init__(self, network: UNet) -> None:
        self.config = network.config
        self.tensors = network.state_dict()

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        return F.conv2d(x, *self.of(name), **how)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, *self.of(name))

    def block(self, name: str, x: Tensor, embedding: Tensor, resize: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resize == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if resize == "up":
            h, x = (t.repeat_interleave(2, 2).repeat_interleave(2, 3) for t in (h, x))
        h = self.conv(f"{name}.in_layers.2", h, padding=1)
        embedding = F.linear(F.silu(embedding), *self.of(f"{name}.emb_layers.1"))[:, :, None, None]
        if self.config.scale_shift_norm:
            half = embedding.shape[1] // 2
            h = (
                self.norm(f"{name}.out_layers.0", h) * (1 + embedding[:, :half])
                + embedding[:, half:]
            )
        else:
            h = self.norm(f"{name}.out_layers.0", h + embedding)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), padding=1)
        if f"{name}.skip_connection.weight" in self.tensors:
            x = self.conv(f"{name}.skip_connection", x)
        return x + h

    def attention(self, name: str, x: Tensor, heads: int) -> Tensor:
        batch, channels, height, width = x.shape
        flat = self.norm(f"{name}.norm", x).flatten(2)
        qkv = F.conv1d(flat, *self.of(f"{name}.qkv"))
        size, seen = channels // heads, []
        for head in range(heads):
            if self.config.new_attention_order:
                starts = [part * channels + head * size for part in range(3)]
            else:
                starts = [(3 * head + part) * size for part in range(3)]
            q, k, v = (qkv[:, start : start + size] for start in starts)
            weight = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(size)).softmax(dim=-1)
            seen.append(torch.einsum("bts,bcs->bct", weight, v))
        out = F.conv1d(torch.cat(seen, dim=1), *self.of(f"{name}.proj_out"))
        return x + out.reshape(batch, channels, height, width)

    def down(self, name: str, x: Tensor, embedding: Tensor) -> Tensor:
        if self.config.resblock_updown:
            return self.block(name, x, embedding, "down")
        return self.conv(f"{name}.op", x, stride=2, padding=1)

    def up(self, name: str, x: Tensor, embedding: Tensor) -> Tensor:
        if self.config.resblock_updown:
            return self.block(name, x, embedding, "up")
        twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.conv(f"{name}.conv", twice, padding=1)

    def __call__(self, x: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        down, up = self.heads()
        embedding = F.linear(time_embedding(times, self.config.channels), *self.of("time_embed.0"))
        embedding = F.linear(F.silu(embedding), *self.of("time_embed.2"))
        embedding = embedding + self.tensors["label_emb.weight"][classes]
        fine = self.conv("input_blocks.0.0", x, padding=1)
        finer = self.block("input_blocks.1.0", fine, embedding)
        halved = self.down("input_blocks.2.0", finer, embedding)
        coarse = self.block("input_blocks.3.0", halved, embedding)
        coarse = self.attention("input_blocks.3.1", coarse, down)
        h = self.block("middle_block.0", coarse, embedding)
        h = self.attention("middle_block.1", h, down)
        h = self.block("middle_block.2", h, embedding)
        h = self.block("output_blocks.0.0", torch.cat([h, coarse], 1), embedding)
        h = self.attention("output_blocks.0.1", h, up)
        h = self.block("output_blocks.1.0", torch.cat([h, halved], 1), embedding)
        h = self.attention("output_blocks.1.1", h, up)
        h = self.up("output_blocks.1.2", h, embedding)
        h = self.block("output_blocks.2.0", torch.cat([h, finer], 1), embedding)
        h = self.block("output_blocks.3.0", torch.cat([h, fine], 1), embedding)
        return self.conv("out.2", F.silu(self.norm("out.0", h)), padding=1)

    def heads(self) -> tuple[int, int]:
        if self.config.head_channels != -1:
            return (64 // self.config.head_channels,) * 2
        return self.config.heads, self.config.heads_upsample


PUBLISHED = UNetConfig(
    image_size=16,
    channels=32,
    multipliers=(1.0, 2.0),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=16,
    classes=3,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"new_attention_order": True},
        {"resblock_updown": False},
        {"scale_shift_norm": False},
        {"learn_sigma": False},
        {"head_channels": -1, "heads": 2, "heads_upsample": 8},
        {
            "new_attention_order": True,
            "resblock_updown": False,
            "scale_shift_norm": False,
            "learn_sigma": False,
            "head_channels": -1,
            "heads": 8,
            "heads_upsample": 4,
        },
    ],
    ids=lambda changes: "+".join(changes) or "published",
)
def test_every_variant_is_its_arithmetic(
    changes: dict[str, Any], generator: torch.Generator
) -> None:
    network = UNet(dataclasses.replace(PUBLISHED, **changes)).eval()
    for parameter in network.parameters():
        # Fresh weights leave attention nearly even and residual branches at zero.
        scale = 0.2 if parameter.ndim == 1 else 1.5 / math.sqrt(parameter[0].numel())
        torch.nn.init.normal_(parameter, std=scale, generator=generator)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    times, classes = torch.tensor([40.0, 800.0]), torch.tensor([2, 0])
    with torch.no_grad():
        ours, written = network(x, times, classes), Written(network)(x, times, classes)
    assert ours.shape == (2, 6 if network.config.learn_sigma else 3, 16, 16)
    assert float((ours - written).abs().max() / written.abs().max()) < 1e-5


def test_the_variants_differ_on_the_same_weights(generator: torch.Generator) -> None:
    """Heads and their order fit any weights, so no loader can tell that they are wrong."""
    network = UNet(PUBLISHED).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    x = torch.randn(1, 3, 16, 16, generator=generator)
    seen = []
    for changes in ({}, {"new_attention_order": True}, {"head_channels": 32}):
        other = UNet(dataclasses.replace(PUBLISHED, **changes)).eval()
        other.load_state_dict(network.state_dict(), strict=True)
        with torch.no_grad():
            seen.append(other(x, torch.tensor([40.0]), torch.tensor([1])))
    for one, another in itertools.combinations(seen, 2):
        assert (one - another).abs().max() > 1e-2


def test_names_of_convolutions_that_resize() -> None:
    with torch.device("meta"):
        network = UNet(dataclasses.replace(PUBLISHED, resblock_updown=False))
    names = {name for name, _ in network.layout()}
    assert {"input_blocks.2.0.op.weight", "input_blocks.2.0.op.bias"} <= names
    assert {"output_blocks.1.2.conv.weight", "output_blocks.1.2.conv.bias"} <= names


@pytest.mark.parametrize("scale_shift", [True, False])
def test_checkpointing_keeps_every_bit_and_fewer_activations(
    scale_shift: bool, generator: torch.Generator
) -> None:
    config = dataclasses.replace(
        tiny.UNET, multipliers=(1.0, 1.0, 1.0), scale_shift_norm=scale_shift
    )
    unet = UNet(config).eval().requires_grad_(False)
    tiny.awaken(unet, 1)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    times = torch.tensor([10.0, 900.0])
    stages = [*unet.input_blocks, unet.middle_block, *unet.output_blocks]
    ways: tuple[bool | Literal["large"], ...] = (False, "large", True)
    found, looks, bytes_kept = {}, {}, {}
    for checkpointing in ways:
        unet.checkpointing = checkpointing
        seen: list[int] = []
        kept: list[int] = []

        def look(_: Any, given: tuple[Tensor, ...], seen: list[int] = seen) -> None:
            seen.append(given[0].shape[-1])

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.nbytes)
            return tensor

        handles = [stage.register_forward_pre_hook(look) for stage in stages]
        given = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = unet(given, times)
            bytes_kept[checkpointing] = sum(kept)
            (gradient,) = torch.autograd.grad(output.square().sum(), given)
        for handle in handles:
            handle.remove()
        looks[checkpointing] = Counter(seen)
        found[checkpointing] = output.detach(), gradient
        with torch.no_grad():
            assert torch.equal(unet(x, times), output)
    for way in ("large", True):
        for ours, plain in zip(found[way], found[False], strict=True):
            assert torch.equal(ours, plain)
    once = looks[False]
    assert looks[True] == {side: 2 * count for side, count in once.items()}
    assert looks["large"] == {side: count * (1 + (side >= 8)) for side, count in once.items()}
    assert bytes_kept[True] < bytes_kept["large"] < bytes_kept[False] / 2
