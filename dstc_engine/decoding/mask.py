"""Masks: which pixels are to be translated, told in black and white in one of the usual ways.

Black and white in any depth, 0 and 1, or an alpha channel over one color. What is none of these
is refused by name: a mask misread keeps what was to be changed, and nobody sees it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dstc_engine.decoding.levels import Range, Values
from dstc_engine.decoding.read import Decoded, Source, open_image
from dstc_engine.errors import MaskError
from dstc_engine.request import ImageArray

_EXPECTED = "expected black and white, 0 and 1, or an alpha channel over one color"
# White of numbers whose type does not say it.
_WHITES = (1.0, 255.0, 65535.0)
# Half gray is the border: what a resize or JPEG blurs falls on one side.
_BORDER = 128
# A blurred mask has grays along its edges alone, a photograph or a gradient everywhere.
_MOST_GRAY = 0.25
# Areas of one gray are classes. Edges have hardly any, and what JPEG leaves in black areas is dark.
_MOST_FLAT, _FEW = 0.01, 16
_NEARLY = 31


def read_mask(data: bytes, place: str = "mask") -> Decoded:
    """Reads a mask: its pixels are (H, W) uint8, 255 where to translate, 0 where to keep.

    ```
    mask = read_mask(Path("mask.png").read_bytes()).pixels
    ```

    Args:
        data: the file's bytes. place: how errors name the mask, a URI for example.

    Raises:
        MaskError: an image, and no mask. ImageError: no image that is read.
    """
    fault = None
    with open_image(data, place) as source:
        try:
            read = _Numbers(source) if source.is_numeric else _Colors(source)
            pixels = source.halved(read.rows)
        except MaskError as error:
            fault = str(error)
        else:
            # Halving has made grays of edges again.
            return Decoded(source.upright(np.where(pixels >= _BORDER, 255, 0).astype(np.uint8)))
    raise MaskError(f"{place}: not a mask: {fault}; {_EXPECTED}")


class _Shades:
    """How often each of 256 levels comes, and how often in an area of its own."""

    def __init__(self) -> None:
        self.count = np.zeros(256, np.int64)
        self.flat = np.zeros(256, np.int64)

    def add(self, levels: ImageArray) -> None:
        """Counts levels (rows, W)."""
        self.count += Image.fromarray(levels).histogram()
        if min(levels.shape) < 2:
            return
        corner = np.ascontiguousarray(levels[:-1, :-1])
        is_flat = corner == levels[1:, 1:]
        is_flat &= corner == levels[1:, :-1]
        is_flat &= corner == levels[:-1, 1:]
        self.flat += Image.fromarray(corner).histogram(Image.fromarray(is_flat))

    def border(self, is_lossy: bool, what: str = "its") -> int:
        """The level that white begins with.

        Raises:
            MaskError: these are not black and white.
        """
        (levels,) = np.nonzero(self.count)
        low, high = int(levels[0]), int(levels[-1])
        total = int(self.count.sum())
        if is_lossy and (high <= _NEARLY or low >= 255 - _NEARLY):
            return _BORDER
        if len(levels) <= 2:
            return _border_of_two(low, high, what)
        least = _NEARLY if is_lossy else 0 if len(levels) <= _FEW else 3
        flat = self.flat[least + 1 : 255 - least].sum() / total
        gray = self.count[_NEARLY + 1 : 255 - _NEARLY].sum() / total
        found = f"{what} {len(levels)} levels from {low} to {high}"
        if high < _BORDER or low >= _BORDER or flat > _MOST_FLAT:
            raise MaskError(f"{found} look like classes")
        if gray > _MOST_GRAY:
            raise MaskError(f"{found}, {gray:.0%} of them gray")
        return _BORDER


def _border_of_two(low: int, high: int, what: str) -> int:
    if high == 0 or low == 255 or (low < _BORDER <= high and (low == 0 or high == 255)):
        return _BORDER
    if high == 1:
        return 1
    found = f"only level is {low}" if low == high else f"levels are {low} and {high}"
    raise MaskError(f"{what} {found}")


class _Numbers:
    """A mask of 16 or more bits, or of floats."""

    def __init__(self, source: Source) -> None:
        self._source = source
        told = source.told_range()
        self._is_inverted = told is not None and told.black > told.white
        whites = sorted({*_WHITES, *([max(told.black, told.white)] if told else [])})
        few = self._few_values()
        if len(few) <= 2:
            self._white = few[-1] or 1.0
            is_high = told is not None and self._white >= max(told.black, told.white) / 2
            if few[0] not in (0, self._white) or not (self._white in whites or is_high):
                raise MaskError(f"its values are {' and '.join(f'{value:g}' for value in few)}")
            self._border = _BORDER
            return
        low, high = few[0], few[-1]
        fitting = [white for white in whites if white / 2 < high <= white * 1.01]
        if low < -0.01 * high or not fitting:
            raise MaskError(f"its values go from {low:g} to {high:g}")
        self._white = fitting[0]
        shades = _Shades()
        for top, bottom in source.strips():
            shades.add(self._levels(source.values(top, bottom)))
        self._border = shades.border(is_lossy=False)

    def rows(self, top: int, bottom: int) -> ImageArray:
        """Rows of the mask, 0 and 255."""
        levels = self._levels(self._source.values(top, bottom))
        return _black_and_white((levels >= self._border) != self._is_inverted)

    def _levels(self, values: Values) -> ImageArray:
        if values.ndim == 3:
            values = values.mean(axis=2)
        return Range(0, self._white).levels(values)

    def _few_values(self) -> list[float]:
        """All values where there are no more than two, else the lowest, one, and the highest."""
        found: set[float] = set()
        for top, bottom in self._source.strips():
            values = self._source.values(top, bottom)
            if np.isnan(values).any():
                raise MaskError("some of its values are NaN or infinite")
            ends = (float(values.min()), float(values.max()))
            other = values[(values != ends[0]) & (values != ends[1])][:1]
            found |= {*ends, *(float(value) for value in other)}
            if len(found) > 3:
                found = {min(found), sorted(found)[1], max(found)}
        return sorted(found)


class _Colors:
    """A mask of 8 bits: gray, colors that are gray, a palette, or with an alpha channel."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._is_lossy = _is_lossy(source)
        self._is_alpha = self._is_index = False
        gray, alpha, indices = _Shades(), _Shades(), np.zeros(256, np.int64)
        if source.image.mode in ("1", "L") and not source.parts.transparent:
            for top, bottom in source.strips():
                gray.add(self._levels(top, bottom))
            self._border = gray.border(self._is_lossy)
            return
        low, high = np.full(3, 255), np.zeros(3, int)
        seen_low, seen_high = np.full(3, 255), np.zeros(3, int)
        colored = 0
        for top, bottom in source.strips():
            colors = self._rgba(top, bottom)
            opacity = np.ascontiguousarray(colors[..., 3])
            channels = [np.ascontiguousarray(colors[..., channel]) for channel in range(3)]
            gray.add(_gray(colors))
            alpha.add(opacity)
            low = np.minimum(low, [channel.min() for channel in channels])
            high = np.maximum(high, [channel.max() for channel in channels])
            is_seen = opacity >= _BORDER
            if is_seen.any():
                seen = [channel[is_seen] for channel in channels]
                seen_low = np.minimum(seen_low, [channel.min() for channel in seen])
                seen_high = np.maximum(seen_high, [channel.max() for channel in seen])
            spread = np.maximum.reduce(channels) - np.minimum.reduce(channels)
            colored += int(np.count_nonzero(spread > (48 if self._is_lossy else 16)))
            if source.image.mode == "P":
                indices += source.strip(top, bottom).histogram()
        total = int(gray.count.sum())
        is_one_color = int((high - low).max()) <= 8
        is_light = int((seen_high - seen_low).max()) <= 8 and int(seen_low.min()) >= _BORDER
        if alpha.count[255] < total:
            if not is_one_color and not is_light:
                raise MaskError("both its colors and its alpha channel vary")
            if np.count_nonzero(alpha.count) == 1:
                raise MaskError("it is transparent all over")
            self._is_alpha = True
            self._border = alpha.border(self._is_lossy, "its alpha channel's")
        elif colored > (0.01 * total if self._is_lossy else 0):
            (used,) = np.nonzero(indices)
            if not len(used) or used[-1] != 1:
                number = f"{len(used)} classes of a palette" if len(used) else "colors"
                raise MaskError(f"it has {number}, and is not gray")
            self._is_index = True
            self._border = 1
        else:
            self._border = gray.border(self._is_lossy)

    def rows(self, top: int, bottom: int) -> ImageArray:
        """Rows of the mask, 0 and 255."""
        if self._is_index:
            return _black_and_white(np.asarray(self._source.strip(top, bottom)) >= self._border)
        return _black_and_white(self._levels(top, bottom) >= self._border)

    def _levels(self, top: int, bottom: int) -> ImageArray:
        strip = self._source.strip(top, bottom)
        if strip.mode in ("1", "L") and not self._is_alpha:
            return np.asarray(strip.convert("L"))
        colors = self._rgba(top, bottom)
        return colors[..., 3] if self._is_alpha else _gray(colors)

    def _rgba(self, top: int, bottom: int) -> ImageArray:
        strip = self._source.strip(top, bottom)
        if strip.mode == "La":
            strip = strip.convert("LA")
        colors = np.array(strip.convert("RGB" if strip.mode == "CMYK" else "RGBA").convert("RGBA"))
        keyed = self._source.transparent(strip)
        if keyed is not None:
            colors[keyed, 3] = 0
        return colors


def _gray(colors: ImageArray) -> ImageArray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors[..., :3])).convert("L"))


def _black_and_white(is_white: npt.NDArray[np.bool_]) -> ImageArray:
    return np.where(is_white, np.uint8(255), np.uint8(0))


def _is_lossy(source: Source) -> bool:
    if source.kind == "WebP":
        return b"VP8L" not in source.parts.data[12:64]
    return source.kind in ("JPEG", "AVIF", "HEIC") or source.image.info.get("compression") == "jpeg"
