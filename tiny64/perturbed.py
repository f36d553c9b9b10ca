"""Images moved a little so that a network is most wrong about them.

A network that is trained on such images must be moved far, in what eyes see, before it changes its
mind: its gradients draw shapes and shading, where those of another draw noise that only it sees
(Santurkar et al. 2019; for guidance Kawar et al. 2023). One step each, from a random place (Wong et
al. 2020).

B images of any shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def perturb(images: Tensor, loss_of: Callable[[Tensor], Tensor], most: float) -> Tensor:
    """(B, ...) images moved uphill of a loss, each by a random share of `most`.

    Args:
        loss_of: gives one number for all images. most: largest Euclidean length of a move, in the
            units of the images.

    Example:
        views = perturb(views, lambda x: F.cross_entropy(network(x), styles), most=5.0)
    """
    share = most * torch.rand(len(images), *[1] * (images.ndim - 1), device=images.device)
    begun = images + 0.5 * share * _unit(torch.randn_like(images))
    begun = begun.detach().requires_grad_()
    (uphill,) = torch.autograd.grad(loss_of(begun), begun)
    return (images + share * _unit(uphill)).detach()


def _unit(moves: Tensor) -> Tensor:
    length = moves.flatten(1).norm(dim=1).clamp(min=1e-12)
    return moves / length.view(-1, *[1] * (moves.ndim - 1))
