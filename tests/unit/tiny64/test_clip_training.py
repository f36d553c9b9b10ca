from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dstc_engine.errors import UserError
from tests.drawings import write_drawings
from tests.tiny_training import CLIP, CLIP_TRAINING, SIZE
from tiny64.clip_training import contrastive_loss, train_clip


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_loss_is_least_when_captions_lie_at_their_images() -> None:
    images = F.normalize(torch.randn(6, 16, generator=_seeded()), dim=1)
    match, scale = torch.eye(6), torch.tensor(50.0)
    right = contrastive_loss(images, images, scale, match)
    assert right.shape == (6,)
    assert (right < 0.05).all()
    assert (contrastive_loss(images, images.roll(1, 0), scale, match) > 1).all()


def test_two_right_answers_are_no_mistake() -> None:
    images = F.normalize(torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]]), dim=1)
    match = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    loss = contrastive_loss(images, images, torch.tensor(50.0), match)
    assert torch.allclose(loss, torch.zeros(3), atol=1e-5)
    assert contrastive_loss(images, images, torch.tensor(50.0), torch.eye(3))[0] > 0.6


def test_a_batch_that_companions_do_not_fill_is_refused(tmp_path: Path) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    how = replace(CLIP_TRAINING, batch=10, companions=3)
    with pytest.raises(UserError, match="batch is 10, of 4 images of each subject"):
        train_clip(data, tmp_path / "run", CLIP, how)
    with pytest.raises(UserError, match="companions is -1; expected 0 or more"):
        replace(how, companions=-1)


@pytest.mark.parametrize("companions", [0, 3])
def test_a_subject_has_as_many_companions_as_asked_for(tmp_path: Path, companions: int) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    how = replace(CLIP_TRAINING, batch=8, companions=companions)
    weights = train_clip(data, tmp_path / "run", CLIP, how)
    assert json.loads(weights.with_suffix(".json").read_text())["pictures"] == 8 * how.steps
