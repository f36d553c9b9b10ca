"""Random networks are those of the preset, and the same at each call."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.random_networks import kind_of, prepared, random_models, random_rows
from dstc_engine.presets import FFHQ256_IMAGE, IMAGENET256_IMAGE, IMAGENET256_TEXT, TINY64
from dstc_engine.weights.architectures import layout
from dstc_engine.weights.registry import find


def test_full_size_networks_have_the_published_layout() -> None:
    preset = prepared(IMAGENET256_TEXT, "text")
    models = random_models(preset, "meta")
    found = {name: tuple(t.shape) for name, t in models.unet.state_dict().items()}
    assert found == layout(find("adm-imagenet256"))
    assert models.dino is not None and models.dino.size == 224
    assert [clip.size for clip in models.clips] == [224, 288, 224, 384, 224]


def test_shrunken_networks_are_small_and_of_the_same_kinds() -> None:
    preset = prepared(IMAGENET256_TEXT, "text", shrink=True)
    models = random_models(preset, "meta", shrink=True)
    networks = [models.unet, models.dino, *models.clips]
    assert all(n is not None and sum(p.numel() for p in n.parameters()) < 12e6 for n in networks)
    towers = [type(clip.model.visual).__name__ for clip in models.clips]
    residual, transformer = "ModifiedResNet", "VisionTransformer"
    assert towers == [residual, residual, transformer, residual, transformer]
    full = random_models(prepared(IMAGENET256_TEXT, "text"), "meta")
    assert len(models.unet.input_blocks) == len(full.unet.input_blocks)


def test_values_are_the_same_at_each_call_and_none_is_dead() -> None:
    preset = prepared(IMAGENET256_IMAGE, "image", shrink=True)
    torch.manual_seed(1)
    first = random_models(preset, shrink=True).unet.state_dict()
    torch.manual_seed(2)
    second = random_models(preset, shrink=True).unet.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(tensor.any() for tensor in first.values() if tensor.ndim > 1)


def test_rows_are_those_that_the_preset_is_made_for() -> None:
    assert [kind_of(p) for p in (IMAGENET256_TEXT, FFHQ256_IMAGE)] == ["text", "image"]
    assert kind_of(TINY64) == "both"
    assert prepared(IMAGENET256_IMAGE, "image").guides("clip") is False
    assert prepared(IMAGENET256_TEXT, "text") == dataclasses.replace(
        IMAGENET256_TEXT, max_restarts=0
    )


@pytest.mark.parametrize("kind", ["text", "image", "both"])
def test_rows_differ_in_their_images_and_seeds(kind: str) -> None:
    one, other = random_rows(kind, 2, 32)
    assert one.content.shape == (32, 32, 3)
    assert (one.content != other.content).any() and one.seed != other.seed
    assert (one.prompt is not None, one.style is not None) == (kind != "image", kind != "text")
    again = random_rows(kind, 1, 32, start=1)[0]
    assert again.id == other.id and (again.content == other.content).all()
