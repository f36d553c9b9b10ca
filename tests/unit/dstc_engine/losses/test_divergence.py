"""The class token's move since the last step."""

from __future__ import annotations

import torch

from dstc_engine.losses.divergence import divergence_loss


def test_closed_forms(generator: torch.Generator) -> None:
    cls = torch.randn(3, 8, generator=generator)
    assert divergence_loss(cls, cls).tolist() == [0, 0, 0]
    moved = cls + torch.tensor([1.0, -2.0, 0.5])[:, None]
    torch.testing.assert_close(divergence_loss(moved, cls), torch.tensor([-1.0, -4.0, -0.25]))
