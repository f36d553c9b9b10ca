"""Operations of a row, against networks counted by themselves and published numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dstc_engine import operations
from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet import UNet
from dstc_engine.kernel_counts import counting, total_flops
from dstc_engine.losses import SEEN_BY_DINO
from dstc_engine.models import load_models
from dstc_engine.operations import cost_of, meta_models
from dstc_engine.presets import (
    FFHQ256_TEXT,
    IMAGENET256_TEXT,
    TINY64,
    with_fields,
)
from dstc_engine.weights.registry import find


def forward_and_backward(network: nn.Module, image: Tensor, *others: Tensor) -> int:
    """PyTorch's own counter, on real numbers."""
    leaf = image.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        output = network(leaf * 1, *others)
        outputs = [output] if isinstance(output, Tensor) else [output.keys, output.cls]
        torch.autograd.grad(sum(o.sum() for o in outputs), leaf)
    return int(counter.get_total_flops())


def test_a_step_is_each_network_forward_and_backward() -> None:
    models = load_models(TINY64)
    image = torch.randn(1, 3, 64, 64)
    unet = forward_and_backward(models.unet, image, torch.zeros(1))
    dino = forward_and_backward(models.dino, image.detach())
    clip = models.clips[0]
    crops = torch.randn(TINY64.crops, 3, clip.size, clip.size)
    seen = forward_and_backward(clip.model.visual, crops)
    # Apart from it: the losses' own products of keys, and that attention's backward on a CPU
    # computes its weights again.
    assert cost_of(TINY64).step == pytest.approx(unet + dino + seen, rel=0.01)
    assert cost_of(TINY64, with_prompt=False).step == pytest.approx(unet + dino, rel=0.01)


def test_a_multiplication_with_its_addition_counts_as_two() -> None:
    layer = nn.Linear(5, 7, bias=False).requires_grad_(False)
    x = torch.randn(3, 5, requires_grad=True)
    with counting() as counted, torch.enable_grad():
        torch.autograd.grad(layer(x).sum(), x)
    assert total_flops(counted) == 2 * (2 * 3 * 5 * 7)


def test_steps_are_those_of_the_chain() -> None:
    # Indices 10 .. 0 once each; with repeats, the first of them five times.
    assert cost_of(TINY64).steps == TINY64.guided_steps == 10 + 1
    assert cost_of(dataclasses.replace(TINY64, resample=5)).steps == cost_of(TINY64).steps + 4


def test_published_networks_are_counted_without_their_weights() -> None:
    # Peebles & Xie 2023 (DiT) give 1120 Gflops for this network, multiply-adds counted once.
    with torch.device("meta"):
        models = meta_models(IMAGENET256_TEXT)
        with counting() as counted:
            models.unet(torch.empty(1, 3, 256, 256), torch.empty(1))
    assert total_flops(counted) / 2 == pytest.approx(1.12e12, rel=0.02)
    assert sum(p.numel() for p in models.unet.parameters()) == pytest.approx(552.8e6, rel=0.001)
    faces = meta_models(FFHQ256_TEXT)
    assert faces.arcface is not None and all(p.is_meta for p in faces.arcface.parameters())


def test_a_prior_with_classes_and_another_schedule_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = meta_models(TINY64)
    plain = cost_of(TINY64)
    with torch.device("meta"):
        models.unet = UNet(dataclasses.replace(models.unet.config, classes=7))
    models.noise_schedule = NoiseSchedule(kind="cosine", steps=4000)
    monkeypatch.setattr(operations, "meta_models", lambda preset: models)
    # 2000 steps are more than the 1000 of the usual schedule.
    fine = dataclasses.replace(TINY64, respacing="2000", skip=1978)
    counted = operations.cost_of.__wrapped__(fine)
    assert (counted.step, counted.steps) == (plain.step, 21 + TINY64.resample)


def test_networks_of_a_users_own_are_counted_by_their_descriptions(tmp_path: Path) -> None:
    """Without their files, which may lie elsewhere: the same numbers as the shipped ones."""
    names = {"prior": TINY64.prior, "dino": TINY64.dino, "clips": TINY64.clips[0]}
    for field, name in names.items():
        (tmp_path / f"{field}.json").write_text(json.dumps(find(name).description()))
    own = with_fields(TINY64, {field: str(tmp_path / f"{field}.json") for field in names})
    assert cost_of(own) == cost_of(TINY64)


def test_networks_that_no_loss_looks_through_are_not_counted() -> None:
    blind = {f"weight_{name}": 0.0 for name in SEEN_BY_DINO}
    whole = cost_of(TINY64, with_prompt=False)
    without = cost_of(dataclasses.replace(TINY64, **blind), with_prompt=False)  # type: ignore[arg-type]
    dino = forward_and_backward(load_models(TINY64).dino, torch.randn(1, 3, 64, 64))
    assert whole.step - without.step == pytest.approx(dino, rel=0.02)
    silent = cost_of(dataclasses.replace(TINY64, weight_clip=0.0))
    assert silent.step == whole.step and silent.text == 0


def test_vgg_is_counted_as_deep_as_it_is_read() -> None:
    base = cost_of(TINY64)

    def share(**fields: Any) -> float:
        """Multiply-adds of one pass, forward, in a step."""
        return (cost_of(dataclasses.replace(TINY64, vgg_size=224, **fields)).step - base.step) / 4

    # 19.5 G multiply-adds are commonly given for the convolutions of VGG-19 at 224 px.
    deepest = share(weight_vgg_content=1.0, vgg_content_layers=("relu5_4",))
    assert deepest == pytest.approx(19.5e9, rel=0.02)
    first = share(weight_vgg_content=1.0, vgg_content_layers=("relu1_1",))
    assert first == pytest.approx(224 * 224 * 27 * 64, rel=0.02)
    assert first < share(weight_vgg_gram=1.0) < deepest
