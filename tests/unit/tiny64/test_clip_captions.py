from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dstc_engine.training.images import ImageSet, load_images
from tests.drawings import write_drawings
from tests.tiny_training import SIZE
from tiny64.captions import STYLE_PHRASES
from tiny64.clip_captions import (
    TEMPLATES,
    Captions,
    companions,
    draw_captions,
    load_keywords,
    matches,
    numbered,
)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawings(tmp_path_factory.mktemp("data") / "emoji.parquet", size=SIZE)


@pytest.fixture(scope="module")
def images(data: Path) -> ImageSet:
    return load_images(data, "train")


def test_the_templates_are_the_79_of_the_method() -> None:
    assert len(TEMPLATES) == 79
    assert "a photo of many {}." not in TEMPLATES


def test_keywords_are_words(data: Path, images: ImageSet) -> None:
    assert load_keywords(data, images)[0] == ["shape", "number 0"]


def test_captions_say_what_they_claim(data: Path, images: ImageSet) -> None:
    rows = torch.arange(len(images)).repeat(10)
    captions = draw_captions(images, load_keywords(data, images), rows, _seeded())
    for row, text, name, style in zip(
        rows.tolist(), captions.texts, captions.names, captions.styles, strict=True
    ):
        assert (STYLE_PHRASES[images.styles[row]] in text) == bool(style)
        is_subject_named = images.names[row] in text or "shape" in text or "number" in text
        assert is_subject_named == bool(name) or "shapes" in text
    framed = sum(text.split(" ")[0] in ("a", "the", "an", "itap") for text in captions.texts)
    assert 0.25 < framed / len(rows) < 0.6
    assert 0.1 < 1 - float(captions.names.float().mean()) < 0.2


@pytest.mark.parametrize("look", ["", "ink wash"])
def test_own_images_are_called_by_their_caption_and_their_look(look: str) -> None:
    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    own = ImageSet(pixels, ["0"], ["a fern"], ["a fern"], [look], [""], is_own=True, pairs=[""])
    captions = draw_captions(own, [[]], torch.zeros(200, dtype=torch.int64), _seeded())
    for text, name, style in zip(captions.texts, captions.names, captions.styles, strict=True):
        assert ("a fern" in text) == bool(name)
        assert (bool(look) and look in text) == bool(style)
    assert bool(captions.names.all()) != bool(look)


def test_a_caption_matches_every_image_it_is_true_of() -> None:
    captions = Captions(
        ["fox, flat", "fox", "flat", "cat, line"],
        names=torch.tensor([True, True, False, True]),
        styles=torch.tensor([True, False, True, True]),
    )
    found = matches(captions, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    assert found.tolist() == [
        [True, True, True, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_companions_show_the_same_subject_in_another_style(images: ImageSet) -> None:
    rows = torch.arange(len(images))
    others = companions(images, rows, _seeded())
    for row, other in zip(rows.tolist(), others.tolist(), strict=True):
        assert images.subjects[row] == images.subjects[other]
        assert images.styles[row] != images.styles[other]


def test_several_companions_of_a_subject_are_in_different_styles(images: ImageSet) -> None:
    rows = torch.arange(len(images))
    others = companions(images, rows, _seeded(), 3).reshape(3, -1)
    for row, group in zip(rows.tolist(), others.T.tolist(), strict=True):
        assert {images.subjects[other] for other in group} == {images.subjects[row]}
        assert len({images.styles[other] for other in [row, *group]}) == 4
    assert companions(images, rows, _seeded(), 0).tolist() == []


def test_labels_are_numbered_in_order() -> None:
    assert numbered(["b", "a", "c", "a"]).tolist() == [1, 0, 2, 0]
