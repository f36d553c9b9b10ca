"""Crops towards the target."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dstc_engine.losses.clip_direction import clip_direction_loss, clip_target


def test_from_minus_one_to_one(generator: torch.Generator) -> None:
    target = F.normalize(torch.randn(3, 6, generator=generator), dim=1)
    crops = torch.stack([target, target], dim=1)
    torch.testing.assert_close(clip_direction_loss(crops, target), -torch.ones(3))
    torch.testing.assert_close(clip_direction_loss(-crops, target), torch.ones(3))
    # Crops that point apart are not made unit length again: their mean is shorter.
    split = torch.stack([target, -target, target, target], dim=1)
    torch.testing.assert_close(clip_direction_loss(split, target), -torch.full((3,), 0.5))
    anywhere = F.normalize(torch.randn(3, 50, 6, generator=generator), dim=2)
    loss = clip_direction_loss(anywhere, target)
    assert loss.shape == (3,) and loss.abs().max() < 1


def test_a_target_of_orthogonal_parts() -> None:
    prompt, source, content = torch.eye(3)
    target = clip_target(prompt, source, content, (1.0, 0.4, 0.2))
    length = (1 + 0.16 + 0.04) ** 0.5
    assert target.tolist() == pytest.approx([1 / length, -0.4 / length, 0.2 / length])
    left_out = clip_target(prompt, torch.zeros(3), content, (3.0, 0.4, 4.0))
    assert left_out.tolist() == pytest.approx([0.6, 0, 0.8])
