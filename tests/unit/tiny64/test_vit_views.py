from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dstc_engine.training.images import load_images
from tests.drawings import write_drawings
from tests.tiny_training import SIZE, VIT, VIT_TRAINING
from tiny64.vit import LEVELS
from tiny64.vit_views import ViewMaker, palettes, twin_rows


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_palette_counts_only_what_was_drawn() -> None:
    image = torch.ones(1, 3, 4, 4)
    image[:, :, :2] = -1
    drawn = torch.zeros(1, 4, 4)
    drawn[:, :2] = 1
    palette = palettes(image, drawn)
    assert palette.shape == (1, LEVELS**3)
    assert palette[0, 0] > 0.999
    assert palettes(image, torch.zeros(1, 4, 4))[0, [0, -1]].tolist() == [0.5, 0.5]


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> ViewMaker:
    path = write_drawings(tmp_path_factory.mktemp("data") / "emoji.parquet", size=SIZE)
    return ViewMaker(load_images(path, "train"), VIT, VIT_TRAINING)


def test_twins_are_the_other_style_of_the_aligned_pairs(maker: ViewMaker) -> None:
    images, twins = maker.images, twin_rows(maker.images)
    for row, twin in enumerate(twins.tolist()):
        assert images.subjects[row] == images.subjects[twin]
        pair = {images.styles[row], images.styles[twin]}
        assert pair in (
            {"twemoji"}, {"noto"}, {"openmoji", "openmoji_line"}, {"fluent_flat", "fluent_3d"}
        )  # fmt: skip
    assert torch.equal(twins[twins], torch.arange(len(twins)))


def test_twins_of_own_images_are_the_others_of_their_pair(maker: ViewMaker) -> None:
    pairs = ["a", "b", "a", "", "a", ""] + [""] * (len(maker.images) - 6)
    twins = twin_rows(replace(maker.images, is_own=True, pairs=pairs))
    assert twins[:6].tolist() == [2, 1, 4, 3, 0, 5]


def test_moved_views_say_where_each_position_went(maker: ViewMaker) -> None:
    side, patch = VIT.side, VIT.patch_size
    label = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side)
    image = F.interpolate(label, SIZE).expand(32, 4, -1, -1)
    moved, place = maker._move(image, _seeded())
    tokens = moved[:, 0, ::patch, ::patch].flatten(1)
    assert place.shape == (32, side * side)
    assert (place >= 0).any(1).all() and (place < 0).any()
    for view, where in zip(tokens, place, strict=True):
        kept = (where >= 0).nonzero().flatten()
        assert torch.equal(view[where[kept]], kept.float())


def test_views_have_the_shapes_they_promise_and_depend_on_the_seed(maker: ViewMaker) -> None:
    rows = torch.arange(4)
    batch, again = maker.make(rows, _seeded()), maker.make(rows, _seeded())
    cut = VIT_TRAINING.window * VIT.patch_size
    assert batch.views.shape == (8, 3, SIZE, SIZE)
    assert batch.windows.shape == (8, 3, cut, cut)
    assert batch.positions.shape == batch.targets.shape == (4, VIT_TRAINING.positions)
    assert batch.cover.shape == (8, VIT.side**2)
    assert 0 <= float(batch.cover.min()) and float(batch.cover.max()) <= 1
    assert torch.equal(batch.views, again.views) and torch.equal(batch.targets, again.targets)


def test_dropped_tokens_are_none_that_the_contrast_asks_for(maker: ViewMaker) -> None:
    rows = torch.arange(4)
    whole, part = maker.make(rows, _seeded()), maker.make(rows, _seeded(), 0.5)
    assert torch.equal(whole.kept, torch.arange(VIT.side**2).expand(8, -1))
    assert part.kept.shape == part.cover.shape == (8, VIT.side**2 // 2)
    # The draws before are the same, and so is what is asked for.
    assert torch.equal(part.kept[:4].gather(1, part.positions), whole.positions)
    there = whole.targets >= 0
    assert there.any() and torch.equal(there, part.targets >= 0)
    found = part.kept[4:].gather(1, part.targets.clamp(min=0))
    assert torch.equal(found[there], whole.targets[there])
    assert torch.equal(part.cover, whole.cover.gather(1, part.kept))
