"""Images moved so that a network is most wrong about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.drawings import write_drawings
from tests.tiny_training import CLIP, CLIP_TRAINING, SIZE, VIT, VIT_TRAINING
from tiny64 import clip_training, vit_training
from tiny64.perturbed import perturb


def test_a_move_goes_uphill_and_is_no_longer_than_asked_for() -> None:
    torch.manual_seed(0)
    uphill = torch.randn(3, 4, 4)
    images = torch.randn(64, 3, 4, 4)

    def loss_of(x: Tensor) -> Tensor:
        return (x * uphill).sum()

    moves = (perturb(images, loss_of, most=2.0) - images).flatten(1)
    lengths = moves.norm(dim=1)
    assert float(lengths.max()) <= 2.0 + 1e-4
    assert float(lengths.min()) < 0.5 < 1.5 < float(lengths.max()), "all lengths alike"
    along = (moves @ uphill.flatten()) / lengths / uphill.norm()
    torch.testing.assert_close(along, torch.ones(64), atol=1e-4, rtol=0)


def test_no_gradient_is_left_behind() -> None:
    network = torch.nn.Linear(4, 1)
    images = torch.randn(2, 4)
    moved = perturb(images, lambda x: network(x).sum(), most=1.0)
    assert not moved.requires_grad and network.weight.grad is None


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_trainings_move_their_images(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    lengths: list[float] = []

    def spy(images: Tensor, loss_of: object, most: float) -> Tensor:
        moved = perturb(images, loss_of, most)  # type: ignore[arg-type]
        lengths.append(float((moved - images).flatten(1).norm(dim=1).max()))
        return moved

    if kind == "vit":
        monkeypatch.setattr(vit_training, "perturb", spy)
        how = replace(VIT_TRAINING, perturbed=3.0, looks=1.0)
        weights = vit_training.train_vit(data, tmp_path / "run", VIT, how)
    else:
        monkeypatch.setattr(clip_training, "perturb", spy)
        weights = clip_training.train_clip(
            data, tmp_path / "run", CLIP, replace(CLIP_TRAINING, perturbed=3.0)
        )
    assert weights.exists()
    assert len(lengths) == 4 and all(0 < length <= 3.001 for length in lengths)
