"""Style of an image: its class token, and its pixels.

The paper's "style loss", image-guided. S rows, D width, H x W pixels.
"""

from __future__ import annotations

from torch import Tensor


def style_cls_loss(cls: Tensor, style_cls: Tensor) -> Tensor:
    """Mean squared distance of class tokens (S, D), (S,)."""
    return (style_cls - cls).pow(2).mean(dim=1)


def style_pixels_loss(z: Tensor, style: Tensor) -> Tensor:
    """Mean squared distance of pixels (S, 3, H, W), (S,); carries the palette."""
    return (z - style).pow(2).mean(dim=(1, 2, 3))
