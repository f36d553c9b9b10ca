"""Bytes <-> uint8 HWC: decoding, fitting to a square, encoding.

H, W are pixels; HWC arrays are RGB uint8. It imports no torch, which takes a process four seconds
and 600 MB; `tensors.py` has the way to floats.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from dstc_engine.decoding.read import read_image
from dstc_engine.request import ImageArray


def decode(data: bytes, place: str = "image", *, whole: bool = False) -> ImageArray:
    """Reads any common image file into (H, W, 3) uint8 RGB; see `decoding.read.read_image`.

    EXIF rotation is applied, colors become sRGB, alpha is composited on white, 16-bit is scaled
    down; CMYK, palette and greyscale are converted.

    Args:
        data: the file's bytes.
        place: how errors name the image, a URI for example.
        whole: keep all pixels of an image above 40 megapixels, which else is halved.

    Raises:
        ImageError: no image, a truncated one, or one of more than 100 megapixels.
    """
    return read_image(data, place, whole=whole).pixels


def encode_png(image: ImageArray, texts: dict[str, str] | None = None) -> bytes:
    """(H, W, 3) uint8 to PNG bytes, `texts` as PNG text chunks; the same input, the same bytes."""
    info = PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def fit(image: ImageArray, size: int, mode: str = "crop") -> ImageArray:
    """Fits an image into a square without squashing it.

    Args:
        image: (H, W, 3) uint8.
        size: pixels of the square's side.
        mode: "crop" resizes the shorter side and crops the centre; "pad" resizes the longer side
            and pads with white (see `unpad`).

    Returns:
        (size, size, 3) uint8.
    """
    return _fit(image, size, mode, Image.Resampling.LANCZOS)


def fit_mask(mask: ImageArray, size: int, mode: str = "crop") -> ImageArray:
    """Fits a mask (H, W) uint8 as `fit` does its image, (size, size) uint8.

    Each pixel is the mean of what it covers: black stays 0 and white 255 but for the pixels that
    an edge runs through, which get its share. Lanczos, sharper for images, would ring: a pale
    second edge three pixels inside what must stay untouched. Padding is white, as without a mask.
    """
    return _fit(mask, size, mode, Image.Resampling.BOX)


def fit_labels(labels: ImageArray, size: int, mode: str = "crop") -> ImageArray:
    """Fits labels (H, W) uint8 as `fit` does their image; padding is 0, each pixel one label."""
    if mode == "crop":
        return _fit(labels, size, mode, Image.Resampling.NEAREST)
    turned = _fit(255 - labels, size, mode, Image.Resampling.NEAREST)  # padding is white
    return 255 - turned


def _fit(image: ImageArray, size: int, mode: str, resampling: Image.Resampling) -> ImageArray:
    opened = Image.fromarray(image)
    if opened.size == (size, size):
        return image
    if mode == "crop":
        return np.asarray(ImageOps.fit(opened, (size, size), resampling))
    white = 255 if image.ndim == 2 else (255, 255, 255)
    top, left, inner_h, inner_w = inner_box(size, *image.shape[:2])
    padded = Image.new(opened.mode, (size, size), white)
    padded.paste(opened.resize((inner_w, inner_h), resampling), (left, top))
    return np.asarray(padded)


def unpad(image: ImageArray, height: int, width: int) -> ImageArray:
    """Cuts off what `fit(mode="pad")` added for an image that was height x width pixels."""
    top, left, inner_h, inner_w = inner_box(image.shape[0], height, width)
    return image[top : top + inner_h, left : left + inner_w]


def inner_box(size: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Where a height x width image lies in a padded square: top, left, height, width."""
    scale = size / max(height, width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    return (size - inner_h) // 2, (size - inner_w) // 2, inner_h, inner_w
