"""Range: the x0 estimate should stay within [-1, 1]. Method section 3; H x W pixels, S rows."""

from __future__ import annotations

from torch import Tensor


def range_loss(x0: Tensor) -> Tensor:
    """Mean square of what lies outside [-1, 1], (S, 3, H, W) to (S,)."""
    return (x0 - x0.clamp(-1, 1)).pow(2).mean(dim=(1, 2, 3))
