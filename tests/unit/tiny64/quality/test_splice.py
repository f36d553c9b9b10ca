"""Splicing ViT, the peer that trains a generator for each pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dstc_engine.errors import UserError
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.losses.style import style_cls_loss
from dstc_engine.request import ImageArray
from dstc_engine.tensors import to_tensor
from dstc_engine.training.settings import with_settings
from tests.unit.dstc_engine import tiny
from tests.unit.tiny64.quality.test_emoji import data, drawing
from tiny64.quality.images import image_path
from tiny64.quality.rows import benchmark_rows
from tiny64.quality.splice import (
    SPLICED,
    Generator,
    Splicing,
    is_spliced,
    splice,
    splice_missing,
)

CONTENT, STYLE = drawing(0, "noto", size=64), drawing(1, "openmoji", size=64)


def _distances(image: ImageArray) -> tuple[float, float]:
    """Of structure to the content, and of the class token to the style image."""
    dino = tiny.make_models().dino
    assert dino is not None
    with torch.no_grad():
        seen = dino(torch.stack([to_tensor(each) for each in (image, CONTENT, STYLE)]))
    structure = structure_loss(seen.keys[:1], self_similarity(seen.keys[1:2]))
    return float(structure), float(style_cls_loss(seen.cls[:1], seen.cls[2:]))


def test_a_generator_keeps_the_size_and_the_range() -> None:
    torch.manual_seed(0)
    image = Generator()(torch.randn(2, 3, 64, 128))
    assert image.shape == (2, 3, 64, 128)
    assert float(image.detach().abs().max()) <= 1


def test_training_brings_structure_to_the_content_and_the_token_to_the_style() -> None:
    dino = tiny.make_models().dino
    assert dino is not None
    before, after = (
        _distances(splice(CONTENT, STYLE, dino, Splicing(steps=steps))) for steps in (1, 60)
    )
    assert after[0] < 0.7 * before[0] and after[1] < 0.7 * before[1]


def test_an_image_depends_on_its_seed_and_on_nothing_drawn_outside() -> None:
    dino = tiny.make_models().dino
    assert dino is not None
    how = Splicing(steps=2)
    first = splice(CONTENT, STYLE, dino, how, seed=3)
    state = torch.random.get_rng_state()
    assert np.array_equal(splice(CONTENT, STYLE, dino, how, seed=3), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.array_equal(splice(CONTENT, STYLE, dino, how, seed=4), first)


def test_rows_with_a_style_image_are_spliced_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in benchmark_rows(data(), 2) if is_spliced(row, 1)]
    assert [row.request.id for row in rows] == ["image-aligned-000", "image-other-vendors-000"]
    dino = tiny.make_models().dino
    assert dino is not None
    splice_missing(rows, dino, tmp_path, Splicing(steps=1))
    assert "s an image, 1 steps, one thread" in capsys.readouterr().out
    paths = [image_path(tmp_path, SPLICED, row) for row in rows]
    before = [path.stat().st_mtime_ns for path in paths]
    splice_missing(rows, dino, tmp_path, Splicing(steps=1))
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert not capsys.readouterr().out


def test_settings_are_read_from_text() -> None:
    changed = with_settings(Splicing(), {"steps": "50", "structure": "3"})
    assert changed == Splicing(steps=50, structure=3.0)
    with pytest.raises(UserError, match="unknown training setting 'speed'"):
        with_settings(Splicing(), {"speed": "2"})
    with pytest.raises(UserError, match="training setting 'steps': 'many' given, expected"):
        with_settings(Splicing(), {"steps": "many"})
