"""What a row is encoded into, and the table that rows share."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from dstc_engine.conditions import Conditions, encode_conditions
from dstc_engine.crops import CropRange
from dstc_engine.models import Models
from dstc_engine.noise import RowNoise
from tests.unit.dstc_engine.tiny import PRESET, SIZE, request

RANGES = CropRange(PRESET.crops, 10.0, (0.8, 1.0), (0.9, 1.1), 0.5)


def test_parts_that_a_row_lacks_are_zeros_and_the_rest_is_not(models: Models) -> None:
    for kind in ("text", "image", "both"):
        row, loss = encode_conditions(models, PRESET, request(kind), RowNoise(0, SIZE, RANGES))
        assert row.source.shape == (1, 3, SIZE, SIZE) and (row.mask == 1).all()
        assert row.style.any() == row.style_cls.any() == (kind != "text")
        assert row.clip_targets[0].any() == (kind != "image")
        assert math.isnan(loss) == (kind == "image")
        assert row.source_keys.shape == (1, 17, 32) and row.source_face.shape == (1, 0)


def test_the_clip_target_is_the_weighted_sum_of_its_parts(models: Models) -> None:
    clip = models.clips[0]
    row = request("text", source_prompt="a photo of a cat")
    encoded, _ = encode_conditions(models, PRESET, row, RowNoise(0, SIZE, RANGES))
    content = torch.from_numpy(row.content / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        away = clip.embed_text("a photo of a cat")
        wanted = clip.embed_text(str(row.prompt)) + 0.2 * clip.embed_picture(content)[0]
        target = encoded.clip_targets[0][0]
        torch.testing.assert_close(
            target, (wanted - 0.4 * away) / (wanted - 0.4 * away).norm(), atol=1e-5, rtol=1e-5
        )
        # Without a source prompt the term is left out: the text "None" stands for nothing.
        silent = dataclasses.replace(row, source_prompt=None)
        alone, _ = encode_conditions(models, PRESET, silent, RowNoise(0, SIZE, RANGES))
        torch.testing.assert_close(
            alone.clip_targets[0][0], wanted / wanted.norm(), atol=1e-5, rtol=1e-5
        )


def test_rows_stay_in_their_slots(models: Models) -> None:
    rows = [
        encode_conditions(models, PRESET, request("both", n), RowNoise(n, SIZE, RANGES))[0]
        for n in range(2)
    ]
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
    encoded, _ = encode_conditions(models, PRESET, row, RowNoise(0, SIZE, RANGES))
    torch.testing.assert_close(encoded.mask[0, 0, 0, :3], torch.tensor([1.0, 0.2, 0.0]))
