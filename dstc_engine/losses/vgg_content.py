"""Structure, another way: features of VGG should stay where they are.

Gatys, Ecker & Bethge 2016, equation 1. S rows, C channels, H x W positions of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def vgg_content_loss(features: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of features, mean over layers, (S,).

    Equation 1 is half the sum over one layer. The mean over channels and positions makes one weight
    push alike whatever the layer and the size of the image.

    Args:
        features, source: of z and of the content, one (S, C, H, W) for each layer.
    """
    shares = [
        (seen - kept).pow(2).mean(dim=(1, 2, 3))
        for seen, kept in zip(features, source, strict=True)
    ]
    return torch.stack(shares).mean(dim=0)
