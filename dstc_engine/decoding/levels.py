"""What the numbers of an image mean: which of them is black, and which is white.

An 8- or 16-bit file says it by its type, a TIFF may say it in SMinSampleValue and SMaxSampleValue.
Floats, signed and 32-bit integers say nothing: there the data decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dstc_engine.errors import ImageError
from dstc_engine.request import ImageArray

Values = npt.NDArray[np.float64]

# Ranges that numbers are usually in, the narrowest first.
_USUAL = (1.0, 255.0, 65535.0)
# What rounding or a resize may leave beyond an end.
_BEYOND = 0.01
# Data that stays under an eighth of a wide range is not of it: ten meters of depth are not 8 bits.
_LEAST_SHARE = 1 / 8


@dataclass(frozen=True)
class Range:
    """What becomes black and what becomes white; black is above white where the file says so.

    Attributes:
        is_truncated: levels are cut off, as 16 bits always were here; else they are rounded.
    """

    black: float
    white: float
    is_truncated: bool = False

    def levels(self, values: Values) -> ImageArray:
        """Values of any shape to uint8; NaN becomes the darker end."""
        scale = 255.0 / (self.white - self.black)
        scaled = np.clip((np.nan_to_num(values, nan=self.black) - self.black) * scale, 0, 255)
        levels: ImageArray = (scaled if self.is_truncated else np.rint(scaled)).astype(np.uint8)
        return levels


@dataclass(frozen=True)
class Extent:
    """The lowest and highest finite value, and how many are none."""

    low: float
    high: float
    missing: int


def extent_of(parts: Iterable[Values]) -> Extent:
    """Of all values together.

    Raises:
        ImageError: none is finite.
    """
    low, high, missing = math.inf, -math.inf, 0
    for values in parts:
        finite = values[np.isfinite(values)]
        missing += values.size - finite.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        raise ImageError("every value is NaN or infinite; expected numbers")
    return Extent(low, high, missing)


def range_by_data(extent: Extent) -> Range:
    """The narrowest usual range that holds the data and is filled by it, else the data's own."""
    low, high = extent.low, extent.high
    if -1 - _BEYOND <= low < -_BEYOND and high <= 1 + _BEYOND:
        return Range(-1, 1)
    for white in _USUAL:
        is_filled = white == 1 or high > white * _LEAST_SHARE
        if low >= -_BEYOND * white and high <= (1 + _BEYOND) * white and is_filled:
            return Range(0, white)
    if low == high:
        return Range(0, 255) if 0 <= low <= 255 else Range(low - abs(low), low + abs(low))
    return Range(low, high)
