"""Presets at the size they are meant for: every network as large as its published weights.

The weights are random, so pictures mean nothing. What holds: shapes fit, memory suffices, numbers
stay finite, each loss that the preset weighs has a value, and guidance reaches the picture.
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

import numpy as np
import open_clip
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.engine import Engine
from dstc_engine.models import Models
from dstc_engine.presets import (
    FFHQ256_IMAGE,
    IMAGENET256_IMAGE,
    IMAGENET256_TEXT,
    Preset,
)
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.unet import UNet, UNetConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Record = Callable[[str, object], None]
GIB = 2**30

ADM_FLAGS: dict[str, object] = dict(
    image_size=256,
    num_channels=256,
    num_res_blocks=2,
    attention_resolutions="32,16,8",
    num_head_channels=64,
    resblock_updown=True,
    learn_sigma=True,
)
FFHQ_FLAGS = ADM_FLAGS | dict(num_channels=128, num_res_blocks=1, attention_resolutions="16")
CLIPS = ("RN50", "RN50x4", "ViT-B-32", "RN50x16", "ViT-B-16")


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


def awakened(network: nn.Module) -> nn.Module:
    """Fills parameters that start as zero: behind them nothing would have a gradient."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.01)
    return network


def make_clip(name: str) -> Clip:
    sizes = open_clip.get_model_config(name)
    network = open_clip.CLIP(
        sizes["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(**sizes["vision_cfg"]),
        text_cfg=open_clip.CLIPTextCfg(**sizes["text_cfg"]),
        quick_gelu=True,
    )
    return Clip(
        awakened(network),
        open_clip.SimpleTokenizer(),
        sizes["vision_cfg"]["image_size"],
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )


def make_unet(flags: dict[str, object]) -> UNet:
    network = UNet(UNetConfig.from_flags(flags))
    awakened(network)
    return network


@pytest.fixture(scope="module", autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def dino() -> Dino:
    vit = VisionTransformer(
        img_size=224, patch_size=8, embed_dim=768, depth=12, num_heads=12, num_classes=0
    )
    return Dino(vit, 224, -1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def models(dino: Dino) -> Models:
    return Models(unet=make_unet(ADM_FLAGS), dino=dino, clips=tuple(map(make_clip, CLIPS)))


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


def check(ended: Translation, counted: set[str]) -> None:
    assert (ended.status, ended.steps, ended.restarts) == ("done", 2, 0)
    assert [step.index for step in ended.losses] == [1, 0]
    for step in ended.losses:
        known = {name for name, value in step.losses.items() if not math.isnan(value)}
        gated = {"divergence"} if step.index else set()
        assert known == counted | gated | {"total"}
        assert all(math.isfinite(step.losses[name]) for name in known)
        # The content against itself, without noise, would be zero.
        assert step.losses["structure"] > 0 and step.losses["contrast"] > 0
    assert ended.picture is not None and ended.picture.shape == (256, 256, 3)
    assert ended.picture.std() > 1


def test_imagenet256_image(models: Models, record_property: Record) -> None:
    row = TranslationRequest(id="image", content=photograph(1), style=photograph(2), seed=1)
    ended = translate_one(models, two_steps(IMAGENET256_IMAGE), row, record_property)
    check(ended, {"structure", "contrast", "style_cls", "style_pixels", "range"})
    assert ended.picture is not None and row.style is not None
    # match_colours, the last thing that the preset does to a picture.
    centre = row.style[:, 32:288]
    assert np.abs(ended.picture.mean((0, 1)) - centre.mean((0, 1))).max() < 6


def test_imagenet256_text(models: Models, record_property: Record) -> None:
    row = TranslationRequest(
        id="text", content=photograph(1), prompt="Black Leopard", source_prompt="Lion", seed=1
    )
    ended = translate_one(models, two_steps(IMAGENET256_TEXT), row, record_property)
    check(ended, {"structure", "contrast", "clip", "range"})
    assert all(-1 <= step.losses["clip"] <= 1 for step in ended.losses)


def test_ffhq256_image(dino: Dino, record_property: Record) -> None:
    faces = ArcFace(FFHQ256_IMAGE.identity_crop)
    small = Models(unet=make_unet(FFHQ_FLAGS), dino=dino, clips=(), arcface=faces)
    row = TranslationRequest(id="face", content=photograph(3), style=photograph(4), seed=1)
    ended = translate_one(small, two_steps(FFHQ256_IMAGE), row, record_property)
    check(ended, {"structure", "contrast", "style_cls", "style_pixels", "range", "identity"})
    assert all(0 < step.losses["identity"] <= 2 for step in ended.losses)
