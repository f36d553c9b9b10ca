"""Baselines without training or diffusion: the images that ours have to beat.

H x W pixels; content and style are of one size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dstc_engine.color import match_colours
from dstc_engine.request import ImageArray

Array = npt.NDArray[np.float64]

_LEVELS = 4


def copy_content(content: ImageArray, style: ImageArray) -> ImageArray:
    """Nothing is translated: all of the structure, none of the look."""
    return content


def copy_style(content: ImageArray, style: ImageArray) -> ImageArray:
    """The style image itself: all of the look, none of the structure."""
    return style


def colors(content: ImageArray, style: ImageArray) -> ImageArray:
    """The mean and covariance of the style's colours (Pitie & Kokaram 2007)."""
    return match_colours(content, style)


def statistics(content: ImageArray, style: ImageArray) -> ImageArray:
    """Mean and deviation of the style in each channel of each band of a Laplacian pyramid.

    Adaptive instance normalisation (Huang & Belongie 2017, equation 8) without a trained network:
    its bands stand in for features, and are put together again without a decoder.
    """
    ours, theirs = _pyramid(content), _pyramid(style)
    bands = [_renormalized(a, b) for a, b in zip(ours, theirs, strict=True)]
    image = bands.pop()
    while bands:
        image = _resized(image, bands[-1].shape[:2]) + bands.pop()
    levels: ImageArray = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return levels


BASELINES = {
    "copy of the content": copy_content,
    "copy of the style": copy_style,
    "colours alone": colors,
    "statistics transfer": statistics,
}


def _pyramid(image: ImageArray) -> list[Array]:
    """Band-passes from fine to coarse, the low-pass last."""
    bands = []
    current = image.astype(np.float64)
    for _ in range(_LEVELS):
        small = _resized(current, (current.shape[0] // 2, current.shape[1] // 2))
        bands.append(current - _resized(small, current.shape[:2]))
        current = small
    return [*bands, current]


def _renormalized(ours: Array, theirs: Array) -> Array:
    spread = ours.std(axis=(0, 1))
    scale = theirs.std(axis=(0, 1)) / np.maximum(spread, 1e-6)
    return (ours - ours.mean(axis=(0, 1))) * scale + theirs.mean(axis=(0, 1))


def _resized(image: Array, size: tuple[int, int]) -> Array:
    height, width = size
    channels = [
        np.asarray(
            Image.fromarray(image[..., c].astype(np.float32)).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for c in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1).astype(np.float64)
