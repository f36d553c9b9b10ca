"""What lies outside of [-1, 1]."""

from __future__ import annotations

import torch

from dstc_engine.losses.range import range_loss


def test_closed_forms() -> None:
    x0 = torch.zeros(4, 3, 2, 2)
    x0[0, 0, 0] = torch.tensor([1.0, -1.0])
    x0[1] = 1.5
    x0[2] = -3.0
    x0[3, 1, 1, 0] = 7.0
    torch.testing.assert_close(range_loss(x0), torch.tensor([0.0, 0.25, 4.0, 36 / 12]))


def test_inside_there_is_no_gradient() -> None:
    x0 = torch.tensor([0.5, -0.9, 2.0, -2.0]).reshape(1, 1, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(range_loss(x0).sum(), x0)
    assert gradient.flatten().tolist() == [0, 0, 0.5, -0.5]
