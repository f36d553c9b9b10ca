"""The published architectures at full size, once for each preset, on fake CUDA tensors in bf16."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.fake_cuda import fake_cuda
from benchmarks.kernel_watch import watched_steps
from benchmarks.random_networks import prepared, random_models, random_rows
from benchmarks.slot_memory import alike
from dstc_engine.engine import Engine
from dstc_engine.fit_slots import heaviest_row
from dstc_engine.presets import PRESETS, get_preset
from dstc_engine.step_memory import step_memory

FAMILIES = ("imagenet256", "imagenet512", "ffhq256")
# Each takes a minute of a slow core: one is for every run, the others are for `make slow`.
SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:]]


@pytest.mark.parametrize("family", [FAMILIES[0], *SLOW])
def test_published_networks(family: str) -> None:
    text, image = (prepared(get_preset(f"{family}-{kind}"), "both") for kind in ("text", "image"))
    with fake_cuda() as card:
        models = random_models(text, "cuda", "bf16")
        networks = (models.unet, models.dino, *models.clips, models.arcface)
        tensors = [
            tensor
            for network in networks
            if network is not None
            for tensor in (*network.parameters(), *network.buffers())
        ]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        weights = card.now
        card.reset_peak()
        done = watched_steps(Engine(models, text, 1), [heaviest_row(text)], most=2)
        assert done.amiss() == []
        assert {dtype for name, dtype in done.products if name == "convolution"} == {torch.bfloat16}
        _assert_counted(text.name, weights, card.peak)

        # The image preset's networks are the same, less CLIP, which its rows do not look through.
        models = dataclasses.replace(models, clips=())
        image = prepared(image, "image")
        rows = random_rows("image", 1, image.image_size)
        assert watched_steps(Engine(models, image, 1), rows, most=2).amiss() == []


def _assert_counted(name: str, weights: int, peak: int) -> None:
    """As it was counted, where it was."""
    known = step_memory(PRESETS[name], "bf16")
    if known is None:
        return  # tests/unit/dstc_engine/test_step_memory.py says so
    found = {"weights": weights, "peak": peak}
    counted = {"weights": known.weights, "peak": known.peak(1)}
    assert found == pytest.approx(counted, rel=0.01), (
        f"a step of {name} takes other memory than was counted: run python -m "
        f"benchmarks.slot_memory --presets {name} and python docs/make_tables.py"
    )


def test_presets_of_a_family_take_the_same_memory() -> None:
    for family in FAMILIES:
        text, image = PRESETS[f"{family}-text"], PRESETS[f"{family}-image"]
        assert alike(text) == alike(image)
        assert step_memory(text, "bf16") == step_memory(image, "bf16")
