"""Networks are frozen when they are put together; texts are embedded once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dstc_engine.errors import PresetError
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.losses import SEEN_BY_DINO
from dstc_engine.models import Models, load_models, vgg_layers
from dstc_engine.presets import TINY64, Preset
from dstc_engine.weights.registry import weights_of
from tests.unit.dstc_engine import tiny


def test_networks_are_frozen_and_in_evaluation_mode() -> None:
    unet = tiny.make_unet().train().requires_grad_(True)
    models = tiny.make_models(unet=unet)
    for network in (models.unet, models.dino, *models.clips):
        assert network is not None and not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_a_text_is_embedded_once_for_each_clip_model() -> None:
    clips = (tiny.make_clip(), tiny.make_clip(seed=8, width=24))
    models = tiny.make_models(clips=clips)
    batches: list[int] = []
    for clip in clips:
        clip.model.transformer.register_forward_hook(lambda *_: batches.append(1))
    first = [models.embed_text(clip, "a fox") for clip in clips]
    again = [models.embed_text(clip, "a fox") for clip in clips]
    assert len(batches) == 2 and first[0] is again[0] and first[1] is again[1]
    assert [len(embedding) for embedding in first] == [16, 24]
    models.embed_text(clips[0], "an owl")
    assert len(batches) == 3


def test_texts_take_so_much_memory_and_no_more() -> None:
    models = tiny.make_models(texts=FeatureCache(3 * 16 * 4))
    clip = models.clips[0]
    texts: list[int] = []
    clip.model.transformer.register_forward_hook(lambda *_: texts.append(1))
    for prompt in ("a", "b", "c", "a", "d", "a", "c", "d"):
        models.embed_text(clip, prompt)
    assert len(texts) == 4 and models.texts.size == 3 * 16 * 4
    models.embed_text(clip, "b")  # the one that was not asked for lately
    assert len(texts) == 5


def test_texts_outlive_the_engine() -> None:
    # As in an actor, which builds another engine after a step raised.
    models = tiny.make_models()
    texts: list[int] = []
    models.clips[0].model.transformer.register_forward_hook(lambda *_: texts.append(1))
    row = tiny.request("text", 1)
    first = tiny.run(models, [row, dataclasses.replace(row, id="again")])
    second = tiny.run(models, [row])
    assert len(texts) == 2, "prompt and source prompt"
    tiny.assert_same(second[row.id], first[row.id])


def silence(preset: Preset, *losses: str) -> Preset:
    """The preset without these losses."""
    return dataclasses.replace(preset, **{f"weight_{name}": 0.0 for name in losses})


@pytest.mark.parametrize(
    ("silent", "names"),
    [
        ((), ["emoji64-prior", "emoji64-vit", "emoji64-clip"]),
        (("structure", "contrast"), ["emoji64-prior", "emoji64-vit", "emoji64-clip"]),
        (SEEN_BY_DINO, ["emoji64-prior", "emoji64-clip"]),
        (("clip",), ["emoji64-prior", "emoji64-vit"]),
    ],
)
def test_networks_that_no_loss_looks_through_are_neither_needed_nor_loaded(
    silent: tuple[str, ...], names: list[str]
) -> None:
    preset = silence(TINY64, *silent)
    assert [weights.name for weights in weights_of(preset)] == names
    models = load_models(preset)
    assert (models.dino is not None) == ("emoji64-vit" in names)
    assert bool(models.clips) == ("emoji64-clip" in names)
    assert models.arcface is None and models.vgg is None


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({"weight_vgg_content": 1.0}, {"relu4_2"}),
        ({"weight_vgg_gram": 1.0, "vgg_gram_layers": ("relu1_1",)}, {"relu1_1"}),
        (
            {"weight_vgg_content": 1.0, "weight_vgg_gram": 1.0},
            {"relu4_2", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"},
        ),
        ({}, set()),
    ],
)
def test_vgg_is_read_where_its_losses_look(change: dict[str, Any], layers: set[str]) -> None:
    assert vgg_layers(dataclasses.replace(TINY64, **change)) == layers


def test_an_unknown_precision() -> None:
    with pytest.raises(PresetError, match="precision is 'int8'; expected fp32, bf16, fp16, tf32"):
        tiny.make_models(precision="int8")


def test_cpus_have_no_tf32() -> None:
    with pytest.raises(PresetError, match="'tf32', which CPUs do not have; expected a GPU, or fp"):
        tiny.make_models(precision="tf32")


def test_losses_stay_float32_in_bf16(models: Models) -> None:
    half = tiny.make_models(precision="bf16")
    row = tiny.request("both", 1)
    ended = tiny.run(half, [row])[row.id]
    exact = tiny.run(models, [row])[row.id]
    assert ended.status == "done"
    first, same = ended.losses[0].losses, exact.losses[0].losses
    for name in ("structure", "contrast", "style_cls", "style_pixels", "clip"):
        assert first[name] != same[name], "bf16 was not used"
        assert first[name] == pytest.approx(same[name], rel=0.1, abs=0.02)
    with half.autocast():
        assert torch.is_autocast_enabled("cpu")
