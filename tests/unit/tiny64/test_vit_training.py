from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dstc_engine.training.images import load_images
from tests.drawings import write_drawings
from tests.tiny_training import SIZE, VIT, VIT_TRAINING
from tiny64.vit import Seen, ViTWithHeads
from tiny64.vit_training import crop_contrast, dense_contrast, look_contrast, losses, train_vit
from tiny64.vit_views import ViewMaker, Views


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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


def test_look_contrast_is_least_when_styles_lie_together() -> None:
    styles = torch.tensor([0, 0, 1, 1] * 2)
    by_style = torch.tensor([[0.0, 0], [0, 0], [3.0, 0], [3.0, 0]] * 2)
    by_subject = torch.tensor([[0.0, 0], [3.0, 0]] * 4)
    assert (look_contrast(by_style, styles, 0.2) < 1.4).all()  # four alike: log 4
    assert (look_contrast(by_subject, styles, 0.2) > 5).all()


def test_look_contrast_asks_for_other_subjects_of_a_style_not_for_the_other_view() -> None:
    cls = torch.randn(6, 4, generator=_seeded())
    alone = look_contrast(cls, torch.tensor([0, 1, 2] * 2), 0.2)
    assert float(alone.abs().sum()) == 0  # each style has two views of one image
    twins = torch.tensor([0, 1, 1, 1, 0, 0])  # view 2 is in another style
    assert (look_contrast(cls, twins, 0.2) > 0).all()


def test_look_contrast_of_one_image_alone_is_nothing_and_harms_no_gradient() -> None:
    cls = torch.randn(2, 4, generator=_seeded()).requires_grad_()
    loss = look_contrast(cls, torch.tensor([1, 1]), 0.2)
    loss.sum().backward()
    assert (
        float(loss.detach().abs().sum()) == 0 and cls.grad is not None and cls.grad.isfinite().all()
    )


@pytest.mark.parametrize("token_drop", [0.0, 0.5])
def test_every_loss_reaches_the_transformer(tmp_path: Path, token_drop: float) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    maker = ViewMaker(load_images(data, "train"), VIT, VIT_TRAINING)
    torch.manual_seed(0)
    network = ViTWithHeads(VIT, 6)
    batch = maker.make(torch.arange(4), _seeded(), token_drop)
    for name in ("keys", "crops", "style", "looks", "palette", "silhouette"):
        network.zero_grad()
        seen = Seen(*network(batch.views, batch.windows, batch.corners, batch.kept))
        losses(seen, batch, VIT_TRAINING)[name].backward()
        assert network.vit.patch_embed.proj.weight.grad.abs().sum() > 0, name


def test_tokens_are_dropped_until_the_last_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    make, dropped = ViewMaker.make, []

    def spy(maker: ViewMaker, rows: torch.Tensor, generator: torch.Generator, drop: float) -> Views:
        views = make(maker, rows, generator, drop)
        dropped.append(1 - views.kept.shape[1] / VIT.side**2)
        return views

    monkeypatch.setattr(ViewMaker, "make", spy)
    how = replace(VIT_TRAINING, token_drop=0.5, whole=0.5)
    assert train_vit(data, tmp_path / "run", VIT, how).exists()
    assert dropped == [0.5, 0.5, 0.0, 0.0]
