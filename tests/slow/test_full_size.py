"""Presets at the size they are meant for: every network as large as its published weights.

The weights are random, so images mean nothing. What holds: shapes fit, memory suffices, numbers
stay finite, each loss that the preset weighs has a value, and guidance reaches the image.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.dino import Dino
from dstc_engine.engine import Engine
from dstc_engine.models import Models
from dstc_engine.presets import (
    FFHQ256_IMAGE,
    IMAGENET256_IMAGE,
    IMAGENET256_TEXT,
    IMAGENET512_IMAGE,
    Preset,
)
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.weights.architectures import build_clip, build_unet
from dstc_engine.weights.load import build_dino, wrap_clip
from dstc_engine.weights.registry import find

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Record = Callable[[str, object], None]
N = TypeVar("N", bound=nn.Module)
GIB = 2**30


def resident() -> int:
    """Bytes of memory that this process holds now (Linux); elsewhere the most it ever held."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def measured(record: Record, phase: str) -> Iterator[None]:
    """Records the seconds of a phase, and the most memory that the process held in it."""
    peak, ended, started = resident(), threading.Event(), time.monotonic()

    def look() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        seconds = time.monotonic() - started
        record(phase, f"{seconds:.0f} s, at most {peak / GIB:.1f} GiB")


def awakened(network: N) -> N:
    """Fills parameters that start as zero: behind them nothing would have a gradient."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.01)
    return network


def make_unet(preset: Preset) -> UNet:
    return awakened(build_unet(find(preset.prior)))


@pytest.fixture(scope="module", autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def dino() -> Dino:
    return build_dino(find(IMAGENET256_TEXT.dino), IMAGENET256_TEXT.dino_size, -1)


@pytest.fixture(scope="module")
def models(dino: Dino) -> Models:
    clips = [find(name) for name in IMAGENET256_TEXT.clips]
    return Models(
        unet=make_unet(IMAGENET256_TEXT),
        dino=dino,
        clips=tuple(wrap_clip(clip, awakened(build_clip(clip))) for clip in clips),
    )


def photograph(seed: int) -> np.ndarray:
    """Soft blobs of colour with some grain, 320 x 256, so that it has to be fitted."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 8)))
    smooth = nn.functional.interpolate(coarse, (256, 320), mode="bicubic")[0].permute(1, 2, 0)
    grain = rng.normal(0, 8, (256, 320, 3))
    return (smooth.numpy() + grain).clip(0, 255).astype(np.uint8)


def two_steps(preset: Preset) -> Preset:
    """The preset with a chain of the indices 1 and 0 of three, t = 500 and 0, and no restart."""
    return dataclasses.replace(
        preset, respacing="3", skip=1, resample=1, divergence_gate=0, max_restarts=0
    )


def translate_one(
    models: Models, preset: Preset, row: TranslationRequest, record: Record
) -> Translation:
    assert preset.guided_steps == 2
    record("networks in memory", f"{resident() / GIB:.1f} GiB")
    engine = Engine(models, preset, 1)
    engine.add(row)
    ended: list[Translation] = []
    with measured(record, "conditions and first step"):
        ended += engine.step()
    with measured(record, "second step"):
        ended += engine.step()
    assert engine.is_finished
    return ended[0]


def check(ended: Translation, counted: set[str], size: int = 256) -> None:
    assert (ended.status, ended.steps, ended.restarts) == ("done", 2, 0)
    assert [step.index for step in ended.losses] == [1, 0]
    for step in ended.losses:
        known = {name for name, value in step.losses.items() if not math.isnan(value)}
        gated = {"divergence"} if step.index else set()
        assert known == counted | gated | {"total"}
        assert all(math.isfinite(step.losses[name]) for name in known)
        # The content against itself, without noise, would be zero.
        assert step.losses["structure"] > 0 and step.losses["contrast"] > 0
    assert ended.image is not None and ended.image.shape == (size, size, 3)
    assert ended.image.std() > 1


def test_imagenet512_image(dino: Dino, record_property: Record) -> None:
    # First, and without CLIP: with all networks of the next tests in memory it would not fit.
    preset = dataclasses.replace(two_steps(IMAGENET512_IMAGE), weight_clip=0.0)
    large = Models(unet=make_unet(preset), dino=dino, clips=())
    shown: list[torch.Tensor] = []
    large.unet.register_forward_pre_hook(lambda _, given: shown.append(given[2]))
    row = TranslationRequest(id="large", content=photograph(1), style=photograph(2), seed=1)
    ended = translate_one(large, preset, row, record_property)
    check(ended, {"structure", "contrast", "style_cls", "style_pixels", "range"}, size=512)
    classes = [int(step) for step in shown]
    assert len(classes) == 2 and len(set(classes)) == 2 and 0 <= min(classes) <= max(classes) < 1000


def test_imagenet256_image(models: Models, record_property: Record) -> None:
    row = TranslationRequest(id="image", content=photograph(1), style=photograph(2), seed=1)
    ended = translate_one(models, two_steps(IMAGENET256_IMAGE), row, record_property)
    check(ended, {"structure", "contrast", "style_cls", "style_pixels", "range"})
    assert ended.image is not None and row.style is not None
    # match_colours, the last thing that the preset does to an image.
    center = row.style[:, 32:288]
    assert np.abs(ended.image.mean((0, 1)) - center.mean((0, 1))).max() < 6


def test_imagenet256_text(models: Models, record_property: Record) -> None:
    row = TranslationRequest(
        id="text", content=photograph(1), prompt="Black Leopard", source_prompt="Lion", seed=1
    )
    ended = translate_one(models, two_steps(IMAGENET256_TEXT), row, record_property)
    check(ended, {"structure", "contrast", "clip", "range"})
    assert all(-1 <= step.losses["clip"] <= 1 for step in ended.losses)


def test_ffhq256_image(dino: Dino, record_property: Record) -> None:
    faces = ArcFace(FFHQ256_IMAGE.identity_crop)
    small = Models(unet=make_unet(FFHQ256_IMAGE), dino=dino, clips=(), arcface=faces)
    row = TranslationRequest(id="face", content=photograph(3), style=photograph(4), seed=1)
    ended = translate_one(small, two_steps(FFHQ256_IMAGE), row, record_property)
    check(ended, {"structure", "contrast", "style_cls", "style_pixels", "range", "identity"})
    assert all(0 < step.losses["identity"] <= 2 for step in ended.losses)
