"""Puts a result back into its content, at the content's own size."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from dstc_engine.decoding.frame import Frame
from dstc_engine.placement import Placement
from dstc_engine.request import ImageArray


def restore_size(
    result: ImageArray, content: ImageArray, mask: ImageArray | None, fit: str
) -> ImageArray:
    """The content with its translated part in place.

    The result is enlarged (Lanczos), which adds no detail. What `fit` cropped off, and what the
    mask keeps, are the content's own pixels: an untranslated border beside the translated square.

    Args:
        result: (h, w, 3) uint8, as the engine made it. content: (H, W, 3) uint8.
        mask: (H, W) uint8, 0 where the content stays; None for all of it.
        fit: "crop" or "pad", as the result was made.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = content.shape[:2]
    placement = Placement.of(Frame(width, height), max(result.shape[:2]), fit)
    (left, top), (right, bottom) = placement.points_to_content([[0, 0], result.shape[1::-1]])
    # Of an odd rest, the square begins in the middle of a pixel; that one stays the content's.
    x0, y0, x1, y1 = (
        *(math.ceil(edge - 1e-6) for edge in (left, top)),
        *(math.floor(edge + 1e-6) for edge in (right, bottom)),
    )
    (from_x, from_y), (to_x, to_y) = placement.points_to_result([[x0, y0], [x1, y1]])
    limit_y, limit_x = result.shape[:2]
    box = (max(0.0, from_x), max(0.0, from_y), min(limit_x, to_x), min(limit_y, to_y))
    placed = Image.fromarray(result).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box)
    restored = content.copy()
    restored[y0:y1, x0:x1] = np.asarray(placed)
    if mask is not None:
        restored[mask == 0] = content[mask == 0]
    return restored
