"""Every option of a step, on fake CUDA tensors and small networks: chains from entry to end."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.fake_cuda import fake_cuda
from benchmarks.kernel_watch import WatchedSteps, watched_steps
from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.engine import Engine
from dstc_engine.models import Models, vgg_layers
from dstc_engine.precision import PRECISIONS
from tests.unit.dstc_engine import tiny

# First index 1, twice: rows go back once, and in the second of three steps none comes or goes.
PRESET = dataclasses.replace(tiny.PRESET, skip=18, divergence_gate=0, crops=1)


def models_of(preset: Any, precision: str, unet: dict[str, Any]) -> Models:
    """Tiny networks on the card, as the preset needs them."""
    parts: dict[str, Any] = {}
    if unet:
        parts["unet"] = UNet(dataclasses.replace(tiny.UNET, **unet))
    if preset.guides("identity"):
        parts["arcface"] = ArcFace(preset.identity_crop)
    if preset.guides("vgg_content", "vgg_gram"):
        parts["vgg"] = tiny.make_vgg(*vgg_layers(preset))
    if not preset.guides("clip"):
        parts["clips"] = ()
    return tiny.make_models(device=torch.device("cuda"), precision=precision, **parts)


def steps_of(
    kinds: tuple[str, ...] = ("both",),
    precision: str = "bf16",
    mask: bool = False,
    checkpointing: bool = False,
    unet: dict[str, Any] | None = None,
    **fields: Any,
) -> WatchedSteps:
    preset = dataclasses.replace(PRESET, **fields)
    with fake_cuda():
        models = models_of(preset, precision, unet or {})
        models.unet.checkpointing = checkpointing
        rows = [
            tiny.request(kind, number, mask=tiny.half_mask() if mask else None)
            for number, kind in enumerate(kinds)
        ]
        return watched_steps(Engine(models, preset, len(rows)), rows)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(precision: str) -> None:
    done = steps_of(precision=precision)
    assert done.amiss() == []
    assert done.ended == (0, 0, 1) and PRESET.steps == 3
    types = {dtype for (name, dtype), _ in done.products.items() if name == "convolution"}
    assert types == {PRECISIONS[precision]}


def test_rows_of_all_kinds_share_a_table() -> None:
    assert steps_of(kinds=("text", "image", "both", "text")).amiss() == []


# Options that do not meet share a case: a case costs seconds, and what is amiss names its line.
OPTIONS: dict[str, dict[str, Any]] = {
    "ddim": {"sampler": "ddim"},
    "spherical, in fp32 with checkpointing": {"guidance_step": "spherical", "precision": "fp32"}
    | {"checkpointing": True},
    "guided in some steps, checkpointing": {"guidance_every": 2, "guidance_lowest": 1, "skip": 17}
    | {"checkpointing": True},
    "x0, classes, fp16": {"guidance_space": "x0", "precision": "fp16"}
    | {"unet": {"classes": 10, "new_attention_order": True}},
    "restarts, contrast by CLIP": {"range_restart": True, "range_restart_limit": 1e-9}
    | {"max_restarts": 1, "regularize_content": True, "progressive_contrast": True},
    "pixels and range alone, another layout": {"weight_structure": 0.0, "weight_contrast": 0.0}
    | {"weight_divergence": 0.0, "weight_style_cls": 0.0, "weight_clip": 0.0, "noise_mix": False}
    | {"unet": {"scale_shift_norm": False, "resblock_updown": False}},
    "mask, faces, vgg, colors, padding": {"mask": True, "weight_identity": 1.0, "fit": "pad"}
    | {"weight_vgg_content": 1.0, "weight_vgg_gram": 1.0, "vgg_size": tiny.SIZE}
    | {"match_colours": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option: str) -> None:
    assert steps_of(**OPTIONS[option]).amiss() == []


def test_a_row_that_comes_waits_for_what_is_read_of_it_alone() -> None:
    done = steps_of(kinds=("both", "both"))
    assert done.amiss() == []
    entering, ending = sum(done.waits[0].values()) - 1, sum(done.waits[-1].values()) - 1
    # The CLIP loss of each content comes back, and three texts go up as tokens: two prompts and a
    # source prompt in common. Images that end were asked for before the step's wait.
    assert entering <= 2 + 3 and ending == 0
