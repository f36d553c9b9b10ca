"""uint8 HWC <-> float CHW in [-1, 1]: the only place that converts.

H, W are pixels; HWC arrays are RGB uint8.
"""

from __future__ import annotations

import numpy as np
import torch

from dstc_engine.request import ImageArray


def to_tensor(image: ImageArray) -> torch.Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) / 255.0 * 2.0 - 1.0


def to_image(tensor: torch.Tensor) -> ImageArray:
    """(3, H, W) float, clamped to [-1, 1], to (H, W, 3) uint8, rounded to the nearest level."""
    return to_levels(tensor).permute(1, 2, 0).cpu().numpy()


def to_levels(tensor: torch.Tensor) -> torch.Tensor:
    """(3, H, W) float as `to_image` has it, still CHW and on its device; uint8 is passed on."""
    if tensor.dtype == torch.uint8:
        return tensor
    levels = (tensor.detach().float().clamp(-1, 1) + 1) * 127.5
    return levels.round().to(torch.uint8)
