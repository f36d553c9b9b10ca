"""Images into files: PNG, JPEG, WebP or AVIF, the same bytes for the same image."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from dstc_engine.image import encode_png
from dstc_engine.request import ImageArray

QUALITIES = {"jpeg": 95, "webp": 90, "avif": 85}
"""What a format takes where nothing was asked for; PNG loses nothing."""
_DESCRIPTION = 0x010E  # of EXIF


def encode_image(
    image: ImageArray, kind: str, quality: int | None, texts: Mapping[str, str]
) -> bytes:
    """(H, W, 3) uint8 into the bytes of a file.

    Args:
        kind: "png", "jpeg", "webp" or "avif". quality: 1 .. 100; None for that of `QUALITIES`.
        texts: as text chunks of a PNG, else as JSON in EXIF's ImageDescription.

    Example:
        >>> import numpy as np
        >>> encode_image(np.zeros((8, 8, 3), np.uint8), "jpeg", None, {"id": "a"})[:2].hex()
        'ffd8'
    """
    if kind == "png":
        return encode_png(image, dict(texts))
    exif = Image.Exif()
    exif[_DESCRIPTION] = json.dumps(dict(texts))
    options: dict[str, Any] = {"quality": quality or QUALITIES[kind], "exif": exif}
    if kind == "jpeg":
        options["subsampling"] = 0  # edges of drawings keep their colors
    if kind == "avif":
        options["max_threads"] = 1  # so many threads, so many tiles
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind.upper(), **options)
    return buffer.getvalue()


def read_texts(data: bytes) -> dict[str, str]:
    """The texts that `encode_image` wrote into a file; none where there are none."""
    with Image.open(io.BytesIO(data)) as opened:
        if opened.format == "PNG":
            opened.load()
            return {str(key): str(text) for key, text in getattr(opened, "text", {}).items()}
        found = opened.getexif().get(_DESCRIPTION)
    return dict(json.loads(found)) if found else {}
