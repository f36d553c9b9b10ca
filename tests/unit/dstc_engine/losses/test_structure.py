"""Self-similarity forgets lengths and common rotations, and sees the layout."""

from __future__ import annotations

import pytest
import torch

from dstc_engine.losses.structure import self_similarity, structure_loss


def test_equal_keys_cost_nothing_whatever_their_lengths(generator: torch.Generator) -> None:
    keys = torch.randn(2, 9, 5, generator=generator)
    similarity = self_similarity(keys)
    lengths = 0.1 + 9 * torch.rand(2, 9, 1, generator=generator)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    for same in (keys, lengths * keys, keys @ turn):
        loss = structure_loss(same, similarity)
        assert loss.shape == (2,) and float(loss.max()) < 1e-10


def test_closed_form_of_two_tokens() -> None:
    # Source: equal directions. Now: at 60 degrees. Two of four cosines change, by 1/2.
    source = self_similarity(torch.tensor([[[2.0, 0.0], [5.0, 0.0]]]))
    keys = torch.tensor([[[1.0, 0.0], [0.5, 0.75**0.5]]])
    assert float(structure_loss(keys, source)) == pytest.approx(2 * 0.25 / 4)


def test_keys_of_length_zero_are_no_nan() -> None:
    keys = torch.zeros(1, 3, 4, requires_grad=True)
    loss = structure_loss(keys, torch.zeros(1, 3, 3))
    (gradient,) = torch.autograd.grad(loss.sum(), keys)
    assert float(loss.detach()) == 0 and gradient.isfinite().all()
