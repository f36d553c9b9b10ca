from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dstc_engine.training.images import load_pictures
from tests.drawings import write_drawings
from tests.tiny_training import SIZE, VIT, VIT_TRAINING
from tiny64.vit import (
    LEVELS,
    Seen,
    ViewMaker,
    ViTWithHeads,
    crop_contrast,
    dense_contrast,
    look,
    losses,
    palettes,
    position_match,
    self_similarity_distance,
    style_accuracy,
    twin_rows,
)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_look_sees_what_timm_computes() -> None:
    vit = VIT.build().eval()
    pictures = torch.randn(2, 3, SIZE, SIZE, generator=_seeded())
    read: list[torch.Tensor] = []
    blocks = list(vit.blocks)
    blocks[-1].attn.qkv.register_forward_hook(lambda module, given, made: read.append(made))
    blocks[-1].register_forward_hook(lambda module, given, made: read.append(made))
    normed = vit.forward_features(pictures)
    qkv, tokens = read
    cls, keys = look(vit, pictures)
    width = VIT.embed_dim
    assert torch.allclose(keys, qkv[..., width : 2 * width], atol=1e-6)
    assert torch.allclose(cls, tokens[:, 0], atol=1e-6)
    assert torch.allclose(vit.norm(cls), normed[:, 0], atol=1e-6)


def test_a_window_is_placed_where_its_corner_says() -> None:
    vit = VIT.build().eval()
    pictures = torch.randn(1, 3, SIZE, SIZE, generator=_seeded())
    everything = look(vit, pictures, torch.tensor([[0, 0]]))
    assert torch.equal(everything[1], look(vit, pictures)[1])
    window = pictures[:, :, 4:12, 8:16]
    here, elsewhere = (look(vit, window, torch.tensor([corner]))[1] for corner in ([1, 2], [0, 0]))
    assert here.shape == (1, 1 + 4, VIT.embed_dim)
    assert not torch.allclose(here, elsewhere)


def test_dense_contrast_is_least_when_positions_match() -> None:
    keys = F.normalize(torch.randn(2, 16, 8, generator=_seeded()), dim=-1)
    targets = torch.arange(16).expand(2, 16)
    right = dense_contrast(keys, keys, targets, 0.1)
    wrong = dense_contrast(keys, keys, targets.roll(1, 1), 0.1)
    assert right.shape == (2,)
    assert (right < 0.5).all() and (wrong > 3).all()


def test_dense_contrast_leaves_out_positions_that_moved_away() -> None:
    keys = torch.randn(1, 16, 8, generator=_seeded())
    some = torch.where(torch.arange(16) < 4, torch.arange(16), -1)[None]
    alone = dense_contrast(keys[:, :4], keys, torch.arange(4)[None], 0.1)
    assert torch.allclose(dense_contrast(keys, keys, some, 0.1), alone)
    none = dense_contrast(keys, keys, torch.full((1, 16), -1), 0.1)
    assert float(none) == 0


def test_crop_contrast_does_not_tell_alikes_apart() -> None:
    seals = F.normalize(torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]]), dim=1)
    alike = torch.zeros(3, 3, dtype=torch.bool)
    confused = crop_contrast(seals, seals, alike, 0.1)
    alike[0, 1] = alike[1, 0] = True
    excused = crop_contrast(seals, seals, alike, 0.1)
    assert torch.allclose(confused[:2], torch.tensor(2.0).log(), atol=1e-3)
    assert (excused < 1e-3).all()


def test_a_palette_counts_only_what_was_drawn() -> None:
    picture = torch.ones(1, 3, 4, 4)
    picture[:, :, :2] = -1
    drawn = torch.zeros(1, 4, 4)
    drawn[:, :2] = 1
    palette = palettes(picture, drawn)
    assert palette.shape == (1, LEVELS**3)
    assert palette[0, 0] > 0.999
    assert palettes(picture, torch.zeros(1, 4, 4))[0, [0, -1]].tolist() == [0.5, 0.5]


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> ViewMaker:
    path = write_drawings(tmp_path_factory.mktemp("data") / "emoji.parquet", size=SIZE)
    return ViewMaker(load_pictures(path, "train"), VIT, VIT_TRAINING)


def test_twins_are_the_other_style_of_the_aligned_pairs(maker: ViewMaker) -> None:
    pictures, twins = maker.pictures, twin_rows(maker.pictures)
    for row, twin in enumerate(twins.tolist()):
        assert pictures.subjects[row] == pictures.subjects[twin]
        pair = {pictures.styles[row], pictures.styles[twin]}
        assert pair in (
            {"twemoji"}, {"noto"}, {"openmoji", "openmoji_line"}, {"fluent_flat", "fluent_3d"}
        )  # fmt: skip
    assert torch.equal(twins[twins], torch.arange(len(twins)))


def test_moved_views_say_where_each_position_went(maker: ViewMaker) -> None:
    side, patch = VIT.side, VIT.patch_size
    label = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side)
    picture = F.interpolate(label, SIZE).expand(32, 4, -1, -1)
    moved, place = maker._move(picture, _seeded())
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


def test_every_loss_reaches_the_transformer(maker: ViewMaker) -> None:
    torch.manual_seed(0)
    network = ViTWithHeads(VIT, 6)
    batch = maker.make(torch.arange(4), _seeded())
    for name in ("keys", "crops", "style", "palette", "silhouette"):
        network.zero_grad()
        seen = Seen(*network(batch.views, batch.windows, batch.corners))
        losses(seen, batch, VIT_TRAINING)[name].backward()
        assert network.vit.patch_embed.proj.weight.grad.abs().sum() > 0, name


def test_style_accuracy_of_clear_and_of_shuffled_styles() -> None:
    styles = torch.arange(6).repeat(20)
    tokens = F.one_hot(styles).float() + 0.05 * torch.randn(120, 6, generator=_seeded())
    assert style_accuracy(tokens, styles, tokens, styles) == (1.0, 1.0)
    noise = torch.randn(120, 6, generator=_seeded())
    probe, neighbours = style_accuracy(noise[:60], styles[:60], noise[60:], styles[60:])
    assert probe < 0.5 and neighbours < 0.5


def test_position_match_counts_neighbours() -> None:
    keys = torch.eye(16)[None]
    exact, near = position_match(keys, keys.roll(1, 1), 4)
    assert not exact.any()
    # One to the right is a neighbour, except past the edge.
    assert int(near.sum()) == 12
    assert position_match(keys, keys, 4)[0].all()


def test_self_similarity_ignores_rotated_keys() -> None:
    keys = torch.randn(2, 9, 4, generator=_seeded())
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=_seeded()))
    assert self_similarity_distance(keys, 3 * keys @ turn).abs().max() < 1e-5
    assert self_similarity_distance(keys, keys.roll(1, 1)).min() > 0.01
