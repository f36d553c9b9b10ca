"""Images as DINO and VGG expect them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def prepare(images: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """(S, 3, H, W) in [-1, 1], its shorter side resized, then normalised.

    No antialiasing: the environment that the published images were made in had none.

    Args:
        size: pixels of the shorter side. mean, std: of the channels, (3, 1, 1), for [0, 1].
    """
    images = (images + 1) / 2
    height, width = images.shape[-2:]
    if min(height, width) != size:
        scale = size / min(height, width)
        target = (round(height * scale), round(width * scale))
        images = F.interpolate(images, target, mode="bilinear", align_corners=False)
    return (images - mean) / std
