"""Random crops shown to CLIP: parameters drawn per row, applied in one `grid_sample` per model.

S rows, N crops of each. A crop is a rotation about the centre, a random resized crop and perhaps a
flip (method section 3); all three are one affine map, so an image is resampled once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CropRange:
    """What crops are drawn from.

    Attributes:
        count: crops of each image for each model.
        rotation: degrees, uniform in +-rotation.
        scale: share of the area. ratio: width / height, log-uniform. flip: probability.
    """

    count: int
    rotation: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float


def draw_crops(ranges: CropRange, generator: np.random.Generator) -> Tensor:
    """The affine maps of one row's crops, (N, 2, 3) float32, for `apply_crops`.

    A box that would be wider or higher than the image is cut to it.
    """
    count = ranges.count
    u = torch.from_numpy(generator.random((6, count)))
    angle = torch.deg2rad((2 * u[0] - 1) * ranges.rotation)
    area = ranges.scale[0] + u[1] * (ranges.scale[1] - ranges.scale[0])
    low, high = math.log(ranges.ratio[0]), math.log(ranges.ratio[1])
    ratio = torch.exp(low + u[2] * (high - low))
    width = torch.sqrt(area * ratio).clamp(max=1.0)
    height = torch.sqrt(area / ratio).clamp(max=1.0)
    # In grid_sample's coordinates the image spans [-1, 1]; a box of share w has its centre
    # within 1 - w of the middle.
    x, y = (2 * u[3] - 1) * (1 - width), (2 * u[4] - 1) * (1 - height)
    mirror = torch.where(u[5] < ranges.flip, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    box = torch.zeros(count, 3, 3, dtype=torch.float64)
    box[:, 0, 0], box[:, 0, 2] = width * mirror, x
    box[:, 1, 1], box[:, 1, 2] = height, y
    box[:, 2, 2] = 1.0
    turn = torch.zeros(count, 2, 3, dtype=torch.float64)
    turn[:, 0, 0], turn[:, 0, 1] = cos, -sin
    turn[:, 1, 0], turn[:, 1, 1] = sin, cos
    return (turn @ box).float()


def whole_image(count: int) -> Tensor:
    """`count` maps that each show the whole image, (N, 2, 3)."""
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(count, 1, 1)


def apply_crops(images: Tensor, maps: Tensor, size: int) -> Tensor:
    """(S, 3, H, W) images through (S, N, 2, 3) maps to (S * N, 3, size, size), row after row.

    In the images' own dtype, also under autocast.

    What lies outside the image repeats its border: black corners would be read as content.

    Plainly bilinear, without antialiasing, as the official code's crops of tensors were with the
    torchvision of its time. From 512 pixels to 224 a crop thus looks at fewer than half the pixels
    of each line; which ones, differs from crop to crop and from step to step.
    """
    repeated = images.repeat_interleave(maps.shape[1], dim=0)
    grid = _sampling_grid(maps.flatten(0, 1).to(images.dtype), size)
    return F.grid_sample(
        repeated, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _sampling_grid(maps: Tensor, size: int) -> Tensor:
    """Where the pixels of crops lie in their images, (B, size, size, 2), in the dtype of `maps`.

    `F.affine_grid` is a matrix product: autocast runs it in half precision, which puts pixels up
    to 0.83 of a pixel off (bf16, 256 to 384), and TF32 keeps no more digits than fp16. Sums of
    scaled lines stay what they are in both.
    """
    line = (2 * torch.arange(size, device=maps.device, dtype=maps.dtype) + 1) / size - 1
    across, down, shift = maps[:, None, None].unbind(-1)
    return across * line[:, None] + (down * line[:, None, None] + shift)
