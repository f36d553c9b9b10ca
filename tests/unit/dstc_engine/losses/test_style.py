"""Distances to the style's class token and to its pixels."""

from __future__ import annotations

import torch

from dstc_engine.losses.style import style_cls_loss, style_pixels_loss


def test_closed_forms(generator: torch.Generator) -> None:
    offset = torch.tensor([0.0, 3.0, -0.5])
    cls, pixels = (torch.randn(3, *s, generator=generator) for s in ((8,), (3, 4, 4)))
    squares = offset.square()
    torch.testing.assert_close(style_cls_loss(cls, cls + offset[:, None]), squares)
    styled = pixels + offset[:, None, None, None]
    torch.testing.assert_close(style_pixels_loss(pixels, styled), squares)
    one_pixel = pixels.clone()
    one_pixel[1, 2, 3, 0] += 2
    torch.testing.assert_close(
        style_pixels_loss(one_pixel, pixels), torch.tensor([0.0, 4 / 48, 0.0])
    )
