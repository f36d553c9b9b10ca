"""What a row is encoded into, and the table that rows share."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dstc_engine.feature_cache import FeatureCache
from dstc_engine.guidance.conditions import Conditions, encode_conditions
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import PRESET, SIZE, request


def test_parts_that_a_row_lacks_are_zeros_and_the_rest_is_not(models: Models) -> None:
    for kind in ("text", "image", "both"):
        row, loss = encode_conditions(models, PRESET, request(kind))
        assert row.source.shape == (1, 3, SIZE, SIZE) and (row.mask == 1).all()
        assert row.style.any() == row.style_cls.any() == (kind != "text")
        assert row.clip_targets[0].any() == (kind != "image")
        assert math.isnan(loss) == (kind == "image")
        assert row.source_keys.shape == (1, 17, 32) and row.source_face.shape == (1, 0)


def test_the_clip_target_is_the_weighted_sum_of_its_parts(models: Models) -> None:
    clip = models.clips[0]
    row = request("text", source_prompt="a photo of a cat")
    encoded, _ = encode_conditions(models, PRESET, row)
    content = torch.from_numpy(row.content / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        away = clip.embed_text("a photo of a cat")
        wanted = clip.embed_text(str(row.prompt)) + 0.2 * clip.embed_image(content)[0]
        target = encoded.clip_targets[0][0]
        torch.testing.assert_close(
            target, (wanted - 0.4 * away) / (wanted - 0.4 * away).norm(), atol=1e-5, rtol=1e-5
        )
        # Without a source prompt the term is left out: the text "None" stands for nothing.
        silent = dataclasses.replace(row, source_prompt=None)
        alone, _ = encode_conditions(models, PRESET, silent)
        torch.testing.assert_close(
            alone.clip_targets[0][0], wanted / wanted.norm(), atol=1e-5, rtol=1e-5
        )


def test_the_first_clip_loss_is_that_of_the_whole_content() -> None:
    # The official loop: no cuts, minus the product with the target, mean over models.
    models = all_models()
    row = request("text", source_prompt="a photo of a cat")
    encoded, loss = encode_conditions(models, PRESET, row)
    with torch.no_grad():
        shares = [
            -(clip.embed_image(encoded.source) * target).sum()
            for clip, target in zip(models.clips, encoded.clip_targets, strict=True)
        ]
    assert loss == pytest.approx(float(torch.stack(shares).mean()), rel=1e-5)
    image, none = encode_conditions(models, PRESET, request("image"))
    assert math.isnan(none)
    for text, blank in zip(encoded.clip_targets, image.clip_targets, strict=True):
        assert text.shape == blank.shape and not blank.any()


def test_rows_stay_in_their_slots(models: Models) -> None:
    rows = [encode_conditions(models, PRESET, request("both", n))[0] for n in range(2)]
    table = rows[0].empty(3)
    table[2], table[0] = rows[0], rows[1]
    for field in dataclasses.fields(Conditions):
        entries = [getattr(of, field.name) for of in (table, *rows)]
        for whole, first, second in zip(
            *[e if isinstance(e, tuple) else (e,) for e in entries], strict=True
        ):
            assert whole.shape[0] == 3 and not whole[1].any()
            assert torch.equal(whole[2], first[0]) and torch.equal(whole[0], second[0])


def test_a_mask_is_scaled_to_shares(models: Models) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[0, :3] = (255, 51, 0)
    row = request("image", mask=mask)
    encoded, _ = encode_conditions(models, PRESET, row)
    torch.testing.assert_close(encoded.mask[0, 0, 0, :3], torch.tensor([1.0, 0.2, 0.0]))


# -- what rows share -----------------------------------------------------------------------------

VGG = dataclasses.replace(
    PRESET,
    weight_identity=1.0,
    weight_vgg_content=1.0,
    weight_vgg_gram=1.0,
    vgg_content_layers=("relu2_1",),
    vgg_gram_layers=("relu1_1", "relu2_1"),
)


class Faces(nn.Module):
    """Stands in for ArcFace."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(images.flatten(1), dim=-1)


def all_models(**changes: Any) -> Models:
    clips = (tiny.make_clip(), tiny.make_clip(seed=9, width=24))
    vgg = tiny.make_vgg("relu1_1", "relu2_1")
    return tiny.make_models(clips=clips, arcface=Faces(), vgg=vgg, **changes)


def encode(models: Models, row: TranslationRequest, preset: Preset = VGG) -> list[torch.Tensor]:
    """All tensors of a row's conditions, and its CLIP loss."""
    encoded, loss = encode_conditions(models, preset, row)
    tensors = [torch.tensor(loss)]
    for field in dataclasses.fields(Conditions):
        value = getattr(encoded, field.name)
        tensors += value if isinstance(value, tuple) else [value]
    return tensors


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_conditions_are_the_same_bits_with_and_without_the_cache(precision: str) -> None:
    forgetful = all_models(precision=precision, features=FeatureCache(0), texts=FeatureCache(0))
    mindful = all_models(precision=precision)
    shared = request("both", 3)
    rows = [
        shared,
        dataclasses.replace(shared, id="sample", seed=9),
        request("image", 4, content=shared.content),
        request("both", 5, style=shared.style),
        request("image", 6, content=shared.style, style=shared.content),
        shared,
    ]
    for row in rows:
        ours, theirs = encode(mindful, row), encode(forgetful, row)
        assert len(ours) == len(theirs) > 12
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.nan_to_num(nan=-9), other.nan_to_num(nan=-9))
    assert len(mindful.features) > 0 == len(forgetful.features)


def test_images_that_rows_share_are_looked_at_once() -> None:
    models = all_models()
    assert models.dino is not None and models.vgg is not None
    looks = Counter[str]()
    for name, network in [
        ("dino", models.dino),
        ("vgg", models.vgg),
        ("face", models.arcface),
        ("text", models.clips[0].model.transformer),
        ("clip", models.clips[0].model.visual),
    ]:
        assert network is not None
        network.register_forward_hook(lambda *_, name=name: looks.update([name]))
    row = request("both", 1)
    encode(models, row)
    # Content and style each.
    first = {"dino": 2, "vgg": 2, "face": 1, "text": 2, "clip": 1}
    assert looks == first
    for sample in range(3):
        encode(models, dataclasses.replace(row, id=f"s{sample}", seed=sample + 10))
    assert looks == first
    looks.clear()
    encode(models, request("image", 2, content=row.content))  # another style
    assert looks == {"dino": 1, "vgg": 1}
    looks.clear()
    encode(models, request("image", 3, style=row.style))  # another content
    assert looks == {"dino": 1, "vgg": 1, "face": 1}, "CLIP is for rows with a prompt"
    looks.clear()
    encode(models, row, dataclasses.replace(VGG, vgg_gram_layers=("relu1_1",)))
    assert looks == {"vgg": 1}, "other layers are another question"


def test_a_image_that_is_fitted_in_another_way_is_another_image() -> None:
    models = all_models()
    flat = np.full((SIZE, 2 * SIZE, 3), 90, np.uint8)
    row = request("image", 1, content=flat)
    cropped, padded = encode(models, row), encode(models, row, dataclasses.replace(VGG, fit="pad"))
    assert not torch.equal(cropped[3], padded[3])


def test_networks_that_are_not_loaded_leave_their_parts_empty() -> None:
    models = tiny.make_models(dino=None, clips=())
    encoded, loss = encode_conditions(models, PRESET, request("both"))
    assert math.isnan(loss) and encoded.clip_targets == encoded.source_vgg == ()
    assert encoded.source_keys.numel() == encoded.source_cls.numel() == 0
    table = encoded.empty(2)
    table[1] = encoded
    assert torch.equal(table.source[1], encoded.source[0])
