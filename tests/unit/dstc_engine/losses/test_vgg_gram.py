"""The style loss of VGG against equations 3 to 5 of Gatys et al., written out as sums."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dstc_engine.losses.vgg_gram import gram_matrix, vgg_gram_loss


def features(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(seed: int) -> list[Tensor]:
    """Two layers of three rows."""
    return [features(seed, 3, 4, 6, 5), features(seed + 1, 3, 7, 3, 2)]


def equation_3(seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    channels = len(seen)
    gram = np.empty((channels, channels))
    for i in range(channels):
        for j in range(channels):
            gram[i, j] = sum(seen[i].flat[k] * seen[j].flat[k] for k in range(seen[i].size))
    return gram


def test_it_is_equations_3_to_5_with_equal_weights_of_layers() -> None:
    ours, style = layers(0), layers(10)
    loss = vgg_gram_loss([gram_matrix(f) for f in ours], [gram_matrix(f) for f in style])
    for row in range(3):
        total = 0.0
        for seen, wanted in zip(ours, style, strict=True):
            f, a = seen[row].numpy(), wanted[row].numpy()
            n, m = len(f), f[0].size
            e_l = np.sum((equation_3(f) - equation_3(a)) ** 2) / (4 * n**2 * m**2)
            total += e_l / len(ours)
        assert float(loss[row]) == pytest.approx(total, rel=1e-10)


def test_places_and_the_size_of_the_image_do_not_change_it() -> None:
    ours = features(0, 1, 4, 3, 5)
    shuffled = ours.flatten(2)[:, :, torch.randperm(15)].reshape(1, 4, 3, 5)
    larger = ours.repeat_interleave(4, dim=2).repeat_interleave(2, dim=3)
    for other in (shuffled, larger):
        torch.testing.assert_close(gram_matrix(other), gram_matrix(ours))


def test_gradients_and_rows_apart() -> None:
    style = [gram_matrix(f) for f in layers(10)]
    leaves = [layer.requires_grad_() for layer in layers(0)]

    def loss(*seen: Tensor) -> Tensor:
        return vgg_gram_loss([gram_matrix(f) for f in seen], style)

    assert torch.autograd.gradcheck(loss, leaves)
    gradients = torch.autograd.grad(loss(*leaves)[1], leaves)
    assert all(g[1].any() and not g[[0, 2]].any() for g in gradients)
    assert not vgg_gram_loss(style, style).any()
