"""Opens image files: bytes in, uint8 RGB out, one way for all formats.

A file is taken apart (`metadata.py`), its pixels are decoded by Pillow, within a budget of memory
over all threads, and then converted in strips, so that an image is in memory once and not six
times.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from dstc_engine.decoding.colors import ToSrgb, find_conversion
from dstc_engine.decoding.formats import format_of, reader_of
from dstc_engine.decoding.frame import Frame
from dstc_engine.decoding.levels import Range, Values, extent_of, range_by_data
from dstc_engine.decoding.memory import ByteBudget
from dstc_engine.decoding.metadata import Parts, orientation_of, take_apart
from dstc_engine.errors import ImageError
from dstc_engine.request import ImageArray

# An image of more pixels is refused before it is unpacked: a few kilobytes of PNG can unfold to
# gigabytes. 100 megapixels hold every camera's output.
MAX_PIXELS = 100_000_000
# Above 16 megapixels a file has at least a byte for so many pixels, or it is a bomb: photographs
# have one for 2 to 30, a drawing one for some hundreds.
_MAX_PIXELS_A_BYTE, _FEW_PIXELS = 10_000, 16_000_000
# Larger images are halved, if their shorter side still has twice the pixels of the largest preset.
_WHOLE_PIXELS, _LEAST_SIDE = 40_000_000, 1024
# Of all that is being decoded in a process: six photographs of 24 megapixels at once.
_BUDGET = ByteBudget(1 << 30)
# Pixels that are converted at a time.
_STRIP = 1 << 18
# Bytes for a pixel while Pillow decodes, its own image of 4 included; measured as peaks.
_BYTES_A_PIXEL = {"JPEG": 5, "PNG": 5, "BMP": 5, "PNM": 5, "GIF": 4, "WebP": 14, "TIFF": 10}
_BYTES_OTHERWISE = 16
_NO_VALUE = 1e38
_UNTOLD = {"I": "32-bit integers", "F": "32-bit floats"}


@dataclass(frozen=True)
class Decoded:
    """An image, and what was assumed while it was read.

    Attributes:
        pixels: (H, W, 3) uint8 RGB; of a mask (H, W), 0 or 255.
        notes: sentences, none where the file told everything.
        frame: how the pixels lie to those of the file; None of a mask.
    """

    pixels: ImageArray
    notes: tuple[str, ...] = ()
    frame: Frame | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self.pixels.nbytes


def read_image(data: bytes, place: str = "image", *, whole: bool = False) -> Decoded:
    """Reads an image file into RGB.

    ```
    decoded = read_image(Path("cat.tif").read_bytes(), "cat.tif")
    decoded.pixels.shape, decoded.notes
    ```

    Args:
        data: the file's bytes. place: how errors name the image, a URI for example.
        whole: keep all pixels of a very large image.

    Raises:
        ImageError: no image that is read, a damaged one, or one of more than `MAX_PIXELS`.
    """
    with open_image(data, place, whole=whole) as source:
        return Decoded(source.to_rgb(), tuple(source.notes), source.frame)


class Source:
    """A decoded image whose pixels can be had in strips, as numbers or as sRGB.

    Attributes:
        image: as Pillow decoded it. kind: its format. parts: what its file says.
        halving: 2 where the image is to be halved yet, else 1.
        notes: what was assumed so far. stored_size: width and height in the file.
    """

    def __init__(
        self,
        image: Image.Image,
        kind: str,
        parts: Parts,
        halving: int,
        stored_size: tuple[int, int] | None = None,
    ) -> None:
        self.image = image
        self.kind = kind
        self.parts = parts
        self.halving = halving
        self.notes: list[str] = []
        self.stored_size = stored_size or image.size
        # Of 16-bit colors Pillow keeps the high bytes alone.
        self.low_bytes: Image.Image | None = None
        self._conversion: ToSrgb | None = None
        self._range: Range | None = None

    def to_rgb(self) -> ImageArray:
        """(H, W, 3) uint8, sRGB, upright, laid on white."""
        self._conversion, note = find_conversion(
            self.parts.profile, self.parts.primaries, self.image.mode
        )
        if note:
            self.notes.append(note)
        if self.is_numeric:
            self._range = self._find_range()
        return self.upright(self.halved(self._rgb))

    @functools.cached_property
    def is_numeric(self) -> bool:
        """Whether its values need a range; all others are 8 bits from black to white."""
        mode = self.image.mode
        if mode.startswith("I") or mode == "F" or self.low_bytes is not None:
            return True
        return mode == "L" and (self._is_signed or self.told_range() is not None)

    @property
    def _is_signed(self) -> bool:
        return self.parts.tags.get(339, ()) == (2,)

    def strips(self) -> Iterator[tuple[int, int]]:
        """First and last row of each strip; all but the last have an even number of rows."""
        rows = max(2, _STRIP // self.image.width & ~1)
        for top in range(0, self.image.height, rows):
            yield top, min(top + rows, self.image.height)

    def strip(self, top: int, bottom: int) -> Image.Image:
        """Rows of the image."""
        return self.image.crop((0, top, self.image.width, bottom))

    def values(self, top: int, bottom: int) -> Values:
        """Rows as numbers (rows, W) or (rows, W, 3), as the file has them; NaN where none."""
        found = np.asarray(self.strip(top, bottom))
        if self.low_bytes is not None:
            low = np.asarray(self.low_bytes.crop((0, top, self.image.width, bottom)))
            return found.astype(np.float64) * 256 + low
        tags = self.parts.tags
        if self.image.mode == "L" and self._is_signed:
            found = found.view(np.int8)
        elif self.image.mode == "I" and tags and tags.get(339, (1,)) == (1,):
            found = found.view(np.uint32)
        values = found.astype(np.float64)
        # The largest floats stand for "nothing" in many a map.
        values[~(np.abs(values) < _NO_VALUE)] = np.nan
        nothing = tags.get(42113)
        if isinstance(nothing, bytes):
            try:
                value = float(nothing.strip(b"\0 ").decode("latin-1"))
            except ValueError:
                return values
            # The tag is text: floats of 32 bits are written with six digits, or with all.
            values[np.isclose(values, value, rtol=1e-6, atol=0)] = np.nan
        return values

    def told_range(self) -> Range | None:
        """Of the values, as the file tells it; None where it does not."""
        tags = self.parts.tags
        low, high = tags.get(340), tags.get(341)
        is_inverted = tags.get(262) == (0,)
        found: Range | None = None
        mode = self.image.mode
        if isinstance(high, tuple):
            least = min(low) if isinstance(low, tuple) else 0.0
            if math.isfinite(least) and math.isfinite(max(high)) and least < max(high):
                found = Range(float(least), float(max(high)))
        if found is None and (self.kind == "PNM" and mode == "I"):
            found = Range(0, 65535, is_truncated=True)
        if found is None and (mode.startswith("I;16") or self.low_bytes is not None):
            bits = tags.get(258)
            is_less = isinstance(bits, tuple) and 8 < bits[0] < 16
            found = Range(0, 2 ** bits[0] - 1 if is_less and bits else 65535, is_truncated=True)
        # Pillow turns 8 bits of WhiteIsZero around, and nothing else.
        if found and is_inverted and mode != "L":
            return Range(found.white, found.black)
        return found

    def _find_range(self) -> Range:
        told = self.told_range()
        if told is not None:
            return told
        extent = extent_of(self.values(top, bottom) for top, bottom in self.strips())
        found = range_by_data(extent)
        note = f"{self.number_type} of no stated range are read as {found.black:g} to "
        note += f"{found.white:g}"
        if extent.missing:
            note += f"; {extent.missing:,} values that are no numbers are black"
        self.notes.append(note)
        if self.parts.tags.get(262) == (0,):
            return Range(found.white, found.black)
        return found

    @property
    def number_type(self) -> str:
        """For example "32-bit floats"."""
        bits = self.parts.tags.get(258)
        if self.image.mode in ("I", "L") and isinstance(bits, tuple):
            sign = "signed" if self._is_signed else "unsigned"
            return f"{sign} {bits[0]:g}-bit integers"
        return _UNTOLD.get(self.image.mode, "values")

    def _rgb(self, top: int, bottom: int) -> ImageArray:
        return np.asarray(self._rgb_strip(top, bottom))

    def _rgb_strip(self, top: int, bottom: int) -> Image.Image:
        keyed = None
        if self.is_numeric:
            assert self._range is not None
            values = self.values(top, bottom)
            strip = Image.fromarray(self._range.levels(values))
            if self.parts.transparent:
                keyed = (
                    (values == self.parts.transparent).reshape(*values.shape[:2], -1).all(axis=-1)
                )
        else:
            strip = self.strip(top, bottom)
            keyed = self.transparent(strip)
        strip = _on_white(strip, self._conversion)
        if keyed is None:
            return strip
        pixels = np.array(strip)
        pixels[keyed] = 255
        return Image.fromarray(pixels)

    def transparent(self, strip: Image.Image) -> npt.NDArray[np.bool_] | None:
        """Which pixels of an 8-bit strip have the color that a PNG sets aside; None without one."""
        if not self.parts.transparent:
            return None
        mask = (1 << self.parts.depth) - 1  # fewer bits than 8 are spread over all levels
        levels = [(value & mask) * 255 // mask for value in self.parts.transparent]
        found = np.asarray(strip.convert("L") if strip.mode == "1" else strip)
        return (found == np.array(levels)).reshape(*found.shape[:2], -1).all(axis=-1)

    def halved(self, rows_of: Callable[[int, int], ImageArray]) -> ImageArray:
        """All strips together, halved where the image is to be: each pixel the mean of four.

        Args:
            rows_of: the pixels (rows, W, ...) uint8 from a first row to a last.
        """
        by = self.halving
        height, width = -(-self.image.height // by), -(-self.image.width // by)
        whole: ImageArray | None = None
        for top, bottom in self.strips():
            rows = rows_of(top, bottom)
            if by > 1:
                rows = np.asarray(Image.fromarray(rows).reduce(by))
            if whole is None:
                whole = np.empty((height, width, *rows.shape[2:]), np.uint8)
            whole[top // by : top // by + len(rows)] = rows
        assert whole is not None
        return whole

    @property
    def frame(self) -> Frame:
        """How the pixels of `to_rgb` lie to those of the file."""
        is_smaller = self.halving > 1 or self.image.size != self.stored_size
        return Frame(*self.stored_size, self.parts.orientation, halving=2 if is_smaller else 1)

    def upright(self, pixels: ImageArray) -> ImageArray:
        """The pixels (H, W, ...) turned as the file says."""
        orientation = self.parts.orientation
        if orientation in (5, 6, 7, 8):
            pixels = pixels.swapaxes(0, 1)
        if orientation in (3, 4, 7, 8):
            pixels = pixels[::-1]
        if orientation in (2, 3, 6, 7):
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


@contextmanager
def open_image(data: bytes, place: str, *, whole: bool = False) -> Iterator[Source]:
    """A file, decoded; what the block raises while it looks at the pixels is an `ImageError`, too.

    Args:
        data: the file's bytes. place: how errors name it. whole: keep all pixels.

    Raises:
        ImageError: as `read_image`.
    """
    kind, parts = "", Parts(data)
    try:
        kind = format_of(data)
        parts = take_apart(kind, data)
        _refuse_previews(parts)
        with reader_of(kind)(io.BytesIO(parts.data), "") as image:
            _refuse_sizes(image.size, len(data))
            halving = 1 if whole else _halving_of(image.size)
            with _BUDGET.hold(_cost(kind, image, halving, parts.orientation) + len(data)):
                yield _load(image, kind, parts, halving)
    except _TooLarge as error:
        raise ImageError(f"{place}: {error}") from None
    except ImageError as error:
        raise ImageError(f"{place}: not a readable image: {error}; {len(data)} bytes") from error
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes
        # Their texts hold bytes of the file, and addresses that are others in each process.
        raise ImageError(
            f"{place}: not a readable image: {_fault(kind, parts, error)}; {len(data)} bytes"
        ) from None


class _TooLarge(ImageError):
    pass


@functools.cache
def _return_memory() -> None:
    """Makes Pillow ask for a large image in one piece, and not in pieces of 16 MB.

    Pieces below 32 MB stay with the thread that freed them: eight threads that decoded 100
    megapixels one after the other were left with 2.4 GB, and are with 0.5 GB now.
    """
    Image.core.set_block_size(512 << 20)  # type: ignore[attr-defined]


def _load(image: ImageFile.ImageFile, kind: str, parts: Parts, halving: int) -> Source:
    _return_memory()
    stored_size = image.size
    low_bytes = None
    if image.mode == "RGB" and (parts.transparent or 341 in parts.tags):
        low_bytes = _low_bytes(kind, parts)
    if kind == "JPEG" and halving > 1:
        width, height = image.size
        # The decoder leaves out what a smaller image does not show.
        image.draft(image.mode, (width // halving, height // halving))
        if image.size == (-(-width // halving), -(-height // halving)):
            halving = 1
    if kind in ("WebP", "AVIF", "GIF", "HEIC"):
        info = image.info
        orientation = 1
        if kind == "WebP":
            orientation = orientation_of(info.get("exif"), info.get("xmp"))
        elif kind == "AVIF":
            orientation = image.getexif().get(274, 1)
        profile = info.get("icc_profile")
        parts = dataclasses.replace(parts, orientation=orientation, profile=profile)
    image.load()
    source = Source(image, kind, parts, halving, stored_size)
    source.low_bytes = low_bytes
    return source


def _low_bytes(kind: str, parts: Parts) -> Image.Image | None:
    """The lower halves of 16-bit colors, by reading them in the other byte order."""
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    image = reader_of(kind)(io.BytesIO(parts.data), "")
    tiles = []
    for tile in image.tile:
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        name = str(args[0])
        if not name.startswith("RGB;16"):
            return None
        turned = (name[:-1] + other[name[-1]], *args[1:])
        tiles.append(tile._replace(args=turned if isinstance(tile.args, tuple) else turned[0]))
    image.tile = tiles
    image.load()
    return image


def _refuse_previews(parts: Parts) -> None:
    kind = parts.tags.get(254)
    is_preview = isinstance(kind, tuple) and int(kind[0]) & 1 and 330 in parts.tags
    if 50706 in parts.tags or is_preview:
        raise ImageError("a raw file of a camera (DNG, NEF, ARW); convert it to PNG or JPEG")


def _refuse_sizes(size: tuple[int, int], length: int) -> None:
    width, height = size
    pixels = width * height
    if not pixels:
        raise ImageError(f"{width} x {height} pixels")
    found = f"{width} x {height} pixels"
    if pixels > MAX_PIXELS:
        raise _TooLarge(f"{found}; expected at most {MAX_PIXELS:,} in all; {length} bytes")
    if pixels > max(_FEW_PIXELS, length * _MAX_PIXELS_A_BYTE):
        raise _TooLarge(
            f"{found} in {length} bytes: a decompression bomb; expected at most "
            f"{_MAX_PIXELS_A_BYTE:,} pixels for a byte"
        )


def _halving_of(size: tuple[int, int]) -> int:
    width, height = size
    is_large = width * height > _WHOLE_PIXELS and min(size) >= 2 * _LEAST_SIDE
    return 2 if is_large else 1


def _cost(kind: str, image: ImageFile.ImageFile, halving: int, orientation: int) -> int:
    """Bytes that decoding and converting take at most, without those of the file."""
    pixels = image.width * image.height
    result = 3 * pixels // halving**2
    decoded = pixels * _BYTES_A_PIXEL.get(kind, _BYTES_OTHERWISE)
    if kind == "JPEG":
        decoded //= halving**2
        # All coefficients, of 16 bits, wait for the last scan.
        decoded += 2 * len(image.getbands()) * pixels if "progressive" in image.info else 0
    return decoded + result * (1 if orientation == 1 else 2)


def _fault(kind: str, parts: Parts, error: Exception) -> str:
    if kind == "TIFF" and isinstance(error, (SyntaxError, KeyError)) and 258 in parts.tags:
        bits, sample_format = parts.tags[258], parts.tags.get(339, (1,))
        names = {1: "unsigned integers", 2: "signed integers", 3: "floats", 6: "complex numbers"}
        name = names.get(int(sample_format[0]), "samples")
        samples = parts.tags.get(277, (len(bits),))[0]
        return (
            f"a TIFF of {samples:g} x {bits[0]:g}-bit {name}, which is damaged or not read; "
            "convert it to 8 or 16 bits, or to one channel of 32-bit floats"
        )
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return f"{kind}, but cut short; upload it again"
    return f"{kind}, but damaged, or of a kind that is not read; save it anew as PNG"


def _on_white(strip: Image.Image, conversion: ToSrgb | None) -> Image.Image:
    """A strip of any mode as RGB, its transparent parts laid on white."""
    if strip.mode == "La":
        strip = strip.convert("LA")
    has_alpha = strip.mode in ("RGBA", "LA", "PA") or "transparency" in strip.info
    if not has_alpha and conversion is None:
        return strip.convert("RGB")
    layer = strip.convert("RGBA") if has_alpha else None
    if conversion is not None:
        colors = conversion.apply(strip.convert(conversion.mode))
        if layer is None:
            return colors
        colors.putalpha(layer.getchannel("A"))
        layer = colors
    assert layer is not None
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
