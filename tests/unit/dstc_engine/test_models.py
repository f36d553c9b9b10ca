"""Networks are frozen when they are put together; texts are embedded once."""

from __future__ import annotations

import pytest
import torch

from dstc_engine.errors import PresetError
from dstc_engine.models import Models
from tests.unit.dstc_engine import tiny


def test_networks_are_frozen_and_in_evaluation_mode() -> None:
    unet = tiny.make_unet().train().requires_grad_(True)
    models = tiny.make_models(unet=unet)
    for network in (models.unet, models.dino, *models.clips):
        assert not network.training
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


def test_an_unknown_precision() -> None:
    with pytest.raises(PresetError, match="precision is 'int8'; expected fp32, bf16, fp16"):
        tiny.make_models(precision="int8")


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
