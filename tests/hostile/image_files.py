"""Image files that are odd, broken, or no images at all, made byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

# 64 x 48, black to white from left to right: every reading of it can be told by its levels.
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
COLORS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 40)], axis=-1)


def saved(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    """An array or image as a file."""
    opened = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    opened.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of PNG with its sum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    """The PNG with a chunk after its header."""
    return png[:33] + chunk(name, body) + png[33:]


def png(header: bytes, rows: list[bytes], *more: bytes) -> bytes:
    """A PNG of any depth: header of width to color type, unfiltered rows, chunks before them."""
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header + b"\0\0\0") + b"".join(more)
    return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, *extra: tuple[int, int, tuple[Any, ...]], photo: int = 1) -> bytes:
    """A little-endian TIFF of one strip.

    Args:
        pixels: (H, W) or (H, W, samples) of any type of numbers.
        extra: tag, type and values of more entries; type 2 takes text.
        photo: photometric interpretation.
    """
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits, kinds = pixels.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}
    entries: list[tuple[int, int, tuple[Any, ...]]] = [
        (256, 4, (pixels.shape[1],)),
        (257, 4, (pixels.shape[0],)),
        (258, 3, (bits,) * samples),
        (259, 3, (1,)),
        (262, 3, (2 if samples == 3 else photo,)),
        (273, 4, (8,)),
        (277, 3, (samples,)),
        (278, 4, (pixels.shape[0],)),
        (279, 4, (pixels.nbytes,)),
        (339, 3, (kinds[pixels.dtype.kind],) * samples),
        *extra,
    ]
    formats = {1: "B", 2: "s", 3: "H", 4: "I", 7: "s", 8: "h", 11: "f", 12: "d"}
    data = bytearray(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes())
    table = b""
    for tag, kind, values in sorted(entries):
        if formats[kind] == "s":
            packed, count = values[0], len(values[0])
        else:
            packed, count = struct.pack(f"<{len(values)}{formats[kind]}", *values), len(values)
        if len(packed) > 4:
            data += bytes(len(data) % 2)
            place = struct.pack("<I", 8 + len(data))
            data += packed
        else:
            place = packed.ljust(4, b"\0")
        table += struct.pack("<HHI", tag, kind, count) + place
    data += bytes(len(data) % 2)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + bytes(data) + struct.pack("<H", len(entries)) + table + bytes(4)


def exif(*entries: tuple[int, int, bytes]) -> bytes:
    """EXIF with entries of tag, type and four bytes of value, whatever they mean."""
    table = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4)


# Resolution as text, a width of -1 as SHORT, orientation 6, and an entry of no known type.
ODD_EXIF = exif(
    (256, 8, b"\xff\xff\xff\xff"),
    (274, 3, b"\x06\0\0\0"),
    (282, 2, b"72 \0"),
    (296, 3, b"\xff\xff\0\0"),
    (40961, 99, b"\1\0\0\0"),
)


def jpeg_with(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """The JPEG with a segment at its start."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]
