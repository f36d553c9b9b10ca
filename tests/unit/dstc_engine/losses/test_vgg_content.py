"""The content loss of VGG against equation 1 of Gatys et al., written out as a sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dstc_engine.losses.vgg_content import vgg_content_loss


def features(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(seed: int) -> list[Tensor]:
    """Two layers of three rows."""
    return [features(seed, 3, 4, 6, 5), features(seed + 1, 3, 7, 3, 2)]


def test_it_is_equation_1_over_half_the_number_of_features() -> None:
    ours, source = layers(0), layers(10)
    loss = vgg_content_loss(ours, source)
    for row in range(3):
        shares = []
        for seen, kept in zip(ours, source, strict=True):
            f, p = seen[row].numpy(), kept[row].numpy()
            equation_1 = 0.5 * np.sum((f - p) ** 2)
            shares.append(equation_1 / (0.5 * f.size))
        assert float(loss[row]) == pytest.approx(np.mean(shares), rel=1e-12)


def test_the_size_of_the_image_does_not_change_it() -> None:
    ours, source = features(0, 1, 4, 3, 5), features(1, 1, 4, 3, 5)
    larger = [t.repeat_interleave(4, dim=2).repeat_interleave(2, dim=3) for t in (ours, source)]
    torch.testing.assert_close(
        vgg_content_loss([larger[0]], [larger[1]]), vgg_content_loss([ours], [source])
    )


def test_gradients_and_rows_apart() -> None:
    ours, source = layers(0), layers(10)
    leaves = [layer.requires_grad_() for layer in ours]
    assert torch.autograd.gradcheck(lambda *seen: vgg_content_loss(seen, source), leaves)
    gradients = torch.autograd.grad(vgg_content_loss(leaves, source)[1], leaves)
    assert all(g[1].any() and not g[[0, 2]].any() for g in gradients)
    assert not vgg_content_loss(source, source).any()
