"""Kernels that give the same bits each time they run, on a GPU too, for `--deterministic`.

PyTorch has repeatable kernels for nearly all of a step and takes them when asked: convolutions,
products, attention, bilinear resizes, sums by index. For two gradients that it only has with atomic
additions, those of `grid_sample` and of adaptive average pooling, the same result is computed here
from operations that are repeatable.

B images, C channels, H x W pixels.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor


def ask_for_repeatable_kernels() -> None:
    """Sets this process up, before its first work on a GPU; an operation without one raises.

    The flags are the process's, whichever thread steps the engine. See PyTorch's notes on
    reproducibility; what it costs: docs/numerics.md.
    """
    # Read when cuBLAS starts: with one workspace a stream, the split of a product stays the same.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # its choice among kernels goes by their times
    # For reads of memory that nobody wrote, of which there are none; it costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _asked_for(images: Tensor) -> bool:
    return torch.are_deterministic_algorithms_enabled() and not images.is_cpu


def sample_bilinear(images: Tensor, grid: Tensor) -> Tensor:
    """(B, C, H, W) images at (B, h, w, 2) places in -1 .. 1 (x, y), to (B, C, h, w).

    What lies outside an image repeats its border. `F.grid_sample` with `align_corners=False`.
    """
    if _asked_for(images):
        return _sample_by_index(images, grid)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _sample_by_index(images: Tensor, grid: Tensor) -> Tensor:
    """The gradient of an indexed read adds in the order of a stable sort."""
    count, channels, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    x, y = (
        (((place + 1) * side - 1) / 2).clamp(0, side - 1)
        for place, side in zip(grid.unbind(-1), (width, height), strict=True)
    )
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    first = torch.arange(count, device=images.device)[:, None, None] * (height * width)

    def line(row: Tensor) -> Tensor:
        at = first + row * width
        return torch.lerp(pixels[at + left], pixels[at + right], (x - left)[..., None])

    return torch.lerp(line(top), line(bottom), (y - top)[..., None]).permute(0, 3, 1, 2)


def average_pool(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), means of what each covers: `F.adaptive_avg_pool2d`."""
    if _asked_for(images):
        return _pool_lines(_pool_lines(images, size).mT, size).mT
    return F.adaptive_avg_pool2d(images, size)


def _pool_lines(images: Tensor, size: int) -> Tensor:
    """(..., L) to (..., size). No product, which autocast would run in half precision."""
    length = images.shape[-1]
    cell = torch.arange(size, device=images.device)[:, None]
    start, end = cell * length // size, -(-(cell + 1) * length // size)
    place = start + torch.arange(-(-length // size) + 1, device=images.device)
    share = (place < end).to(images.dtype) / (end - start)
    return (images[..., place.clamp(max=length - 1)] * share).sum(dim=-1)
