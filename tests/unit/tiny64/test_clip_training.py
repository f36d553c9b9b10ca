from __future__ import annotations

import torch
import torch.nn.functional as F

from tiny64.clip_training import contrastive_loss


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
