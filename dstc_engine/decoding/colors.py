"""Colors of any profile to sRGB, by Little CMS."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

# Numbers of ITU-T H.273: primaries of BT.709 and of Display P3; transfers that are sRGB's, or as
# good as, and those of HDR, by name.
_BT709, _P3 = 1, 12
_HDR = {16: "PQ", 18: "HLG"}
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@dataclass(frozen=True)
class ToSrgb:
    """Carries images of one mode, RGB, L or CMYK, to sRGB.

    Attributes:
        mode: of the images that `apply` takes. It gives RGB.
    """

    mode: str
    _transform: ImageCms.ImageCmsTransform

    def apply(self, image: Image.Image) -> Image.Image:
        """The image in sRGB."""
        converted = ImageCms.applyTransform(image, self._transform)
        assert converted is not None
        return converted


def find_conversion(
    profile: bytes | None, primaries: tuple[int, int] | None, mode: str
) -> tuple[ToSrgb | None, str | None]:
    """How an image's colors become sRGB, and a note where its profile cannot be followed.

    Args:
        profile: ICC, or None. primaries: of H.273, which count where there is no profile.
        mode: of the image, as Pillow calls it.

    Returns:
        The conversion, None for colors that are sRGB already; and the note, or None.
    """
    if profile is None and primaries is not None:
        if primaries[1] in _HDR:
            return None, f"colors in HDR ({_HDR[primaries[1]]}) are read as sRGB"
        if primaries[0] == _P3:
            profile = display_p3()
    if profile is None:
        return None, None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        takes = _MODES[opened.profile.xcolor_space]
        if (takes == "CMYK") != (mode == "CMYK") or (takes == "L" and not _is_gray(mode)):
            return None, "its color profile is for other pixels than these; read as sRGB"
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), takes, "RGB")
    except (ImageCms.PyCMSError, KeyError, OSError, ValueError, TypeError):
        return None, "its color profile cannot be read; read as sRGB"
    conversion = ToSrgb(takes, transform)
    return (None if _changes_nothing(conversion) else conversion), None


def display_p3() -> bytes:
    """An ICC profile of Display P3: its primaries at D50, and the curve of sRGB."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    text = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(78)
    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    places = {
        b"desc": text,
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(0.51512, 0.24120, -0.00105),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(0.29198, 0.69225, 0.04189),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(0.15710, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(places)), b""
    for name, value in places.items():
        start = 128 + 4 + 12 * len(places) + len(body)
        table += name + struct.pack(">II", start, len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI4s4s4s", 128 + len(table + body), 2 << 24, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + table + body


def _is_gray(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def _changes_nothing(conversion: ToSrgb) -> bool:
    """Whether colors stay as they are, but for rounding: sRGB under one of its many names."""
    if conversion.mode == "CMYK":
        return False
    if conversion.mode == "L":
        levels = np.arange(256, dtype=np.uint8)[None]
        same = levels[..., None].repeat(3, axis=2)
    else:
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        levels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        same = levels
    converted = np.asarray(conversion.apply(Image.fromarray(levels)))
    return int(np.abs(converted.astype(int) - same).max()) <= 2
