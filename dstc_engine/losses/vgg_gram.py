"""Style, another way: which features of VGG occur together, wherever they do.

Gatys, Ecker & Bethge 2016, equations 3 to 5. S rows, C channels, H x W positions of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """Mean product of each pair of channels over positions, (S, C, H, W) to (S, C, C).

    Equation 3 is the sum. The mean leaves out the number of positions, and with it the size of the
    image.
    """
    flat = features.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]


def vgg_gram_loss(grams: Sequence[Tensor], style_grams: Sequence[Tensor]) -> Tensor:
    """Distance of Gram matrices, mean over layers, (S,).

    With the means of `gram_matrix`, a quarter of a layer's mean squared difference is the E_l of
    equation 4, and the mean over L layers is equation 5 with the authors' w_l = 1 / L.

    Args:
        grams, style_grams: of z and of the style image, one (S, C, C) for each layer.
    """
    shares = [
        (gram - style).pow(2).mean(dim=(1, 2)) / 4
        for gram, style in zip(grams, style_grams, strict=True)
    ]
    return torch.stack(shares).mean(dim=0)
