"""Trainings on emoji styles that no benchmark asks for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dstc_engine.training.images import CORE_STYLES, load_training
from tests.drawings import STYLES, write_drawings
from tests.tiny_training import CLIP, CLIP_TRAINING, SIZE, VIT, VIT_TRAINING
from tiny64.captions import OTHER_PHRASES, STYLE_PHRASES
from tiny64.clip_captions import draw_captions, load_keywords
from tiny64.clip_training import train_clip
from tiny64.data import OPTIONAL_STYLES
from tiny64.vit_training import train_vit


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_drawings(tmp_path / "emoji.parquet", size=SIZE, styles=(*STYLES, "fxemoji"))


def test_other_styles_are_trained_on_where_asked_for(data: Path) -> None:
    assert set(load_training(data, every_style=False).styles) == set(CORE_STYLES)
    assert set(load_training(data, every_style=True).styles) == {*CORE_STYLES, "fxemoji"}


def test_each_style_has_a_phrase_of_its_own() -> None:
    assert set(OTHER_PHRASES) == set(OPTIONAL_STYLES)
    phrases = [*STYLE_PHRASES.values(), *OTHER_PHRASES.values()]
    assert len(set(phrases)) == len(phrases)


def test_captions_tell_other_styles_by_their_phrase(data: Path) -> None:
    images = load_training(data, every_style=True)
    rows = torch.tensor([row for row, style in enumerate(images.styles) if style == "fxemoji"])
    captions = draw_captions(
        images, load_keywords(data, images), rows.repeat(8), torch.Generator().manual_seed(0)
    )
    told = [text for text, style in zip(captions.texts, captions.styles, strict=True) if style]
    assert told and all("simple cartoon drawing" in text for text in told)


def test_the_vit_is_validated_on_the_styles_of_val(data: Path, tmp_path: Path) -> None:
    weights = train_vit(data, tmp_path / "vit", VIT, replace(VIT_TRAINING, every_style=True))
    metrics = json.loads(weights.with_suffix(".json").read_text())["metrics"]
    assert 0 <= metrics["val_style_probe"] <= 1


def test_clip_trains_on_every_style(data: Path, tmp_path: Path) -> None:
    weights = train_clip(data, tmp_path / "clip", CLIP, replace(CLIP_TRAINING, every_style=True))
    assert json.loads(weights.with_suffix(".json").read_text())["training"]["every_style"] is True
