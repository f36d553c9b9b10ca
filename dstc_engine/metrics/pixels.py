"""Distances of two images pixel by pixel: PSNR, SSIM, L1. H x W pixels, of one size."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.request import ImageArray

# Of images that are equal; higher than any pair of 8-bit images of 1,000 pixels that differ.
MOST_DB = 100.0


def psnr(ours: ImageArray, theirs: ImageArray) -> float:
    """Peak signal-to-noise ratio of (H, W, 3) uint8, dB; `MOST_DB` where they are equal."""
    error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
    return 10 * math.log10(255**2 / error) if error else MOST_DB


def l1(ours: ImageArray, theirs: ImageArray) -> float:
    """Mean absolute difference of (H, W, 3) uint8, as a share of the range, 0 .. 1."""
    return float(np.abs(ours.astype(np.float64) - theirs).mean() / 255)


def ssim(ours: ImageArray, theirs: ImageArray) -> float:
    """Structural similarity of (H, W, 3) uint8, at most 1, mean over pixels and channels.

    Wang et al. 2004: a Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03; windows that
    lie within the image, so H and W are 11 at least.
    """
    x, y = (torch.from_numpy(p.transpose(2, 0, 1)[:, None].astype(float)) for p in (ours, theirs))
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    window = (line[:, None] * line)[None, None]

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(found.mean())
