"""Takes a file's metadata apart from its pixels, so that no text, profile or EXIF costs an image.

Pillow refuses a file for 1 MB of text, a color profile that does not unpack or a resolution given
as words. It is shown the rest; orientation, profile and transparent color are read here.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

# Profiles of printing presses have up to 3 MB.
_MAX_PROFILE = 8 << 20
_MAX_EXIF = 1 << 20
_ORIENTATION = 274

# Tags of a TIFF that say how its pixels lie; all others are left out.
_LAYOUT_TAGS = frozenset(
    [256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325]
    + [332, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 532]
)
_PROFILE_TAG = 34675
# Bytes of a value, and how `struct` names it.
_TIFF_TYPES = {
    1: (1, "B"),
    2: (1, "s"),
    3: (2, "H"),
    4: (4, "I"),
    6: (1, "b"),
    7: (1, "s"),
    8: (2, "h"),
    9: (4, "i"),
    11: (4, "f"),
    12: (8, "d"),
    13: (4, "I"),
    16: (8, "Q"),
    17: (8, "q"),
}


@dataclass(frozen=True)
class Parts:
    """A file, taken apart.

    Attributes:
        data: the file without what no pixel needs.
        orientation: 1 .. 8, of EXIF or XMP.
        profile: ICC profile, b"" for one that cannot be unpacked, or None.
        primaries: color primaries and transfer by the numbers of ITU-T H.273, where they are told.
        transparent: of a PNG, the color that stands for transparent, in the file's own depth.
        depth: bits of a sample of a PNG.
        tags: of a TIFF's first page, numbers or bytes.
    """

    data: bytes
    orientation: int = 1
    profile: bytes | None = None
    primaries: tuple[int, int] | None = None
    transparent: tuple[int, ...] | None = None
    depth: int = 8
    tags: Mapping[int, tuple[float, ...] | bytes] = field(default_factory=dict)


def take_apart(kind: str, data: bytes) -> Parts:
    """The parts of a file; one too damaged for that is left as it is, for Pillow to judge."""
    takers = {"PNG": _png, "JPEG": _jpeg, "TIFF": _tiff, "AVIF": _boxes, "HEIC": _boxes}
    try:
        return takers[kind](data) if kind in takers else Parts(data)
    except (struct.error, IndexError, ValueError):
        return Parts(data)


def orientation_of(exif: bytes | None, xmp: bytes | None = None) -> int:
    """1 .. 8 by EXIF, else by XMP; 1 where neither says so in a way that can be read."""
    if exif:
        data = exif.removeprefix(b"Exif\0\0")[:_MAX_EXIF]
        try:
            found = _read_tags(data, {_ORIENTATION}).get(_ORIENTATION)
        except (struct.error, IndexError, ValueError):
            found = None
        if isinstance(found, tuple) and len(found) == 1 and found[0] in range(1, 9):
            return int(found[0])
    if found_xmp := re.search(rb"tiff:Orientation(?:=\"|>)([1-8])", xmp or b""):
        return int(found_xmp[1])
    return 1


def _png(data: bytes) -> Parts:
    kept = [data[:8]]
    exif = xmp = profile = trns = primaries = None
    depth, color = data[24], data[25]
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8]
        end = at + 12 + length
        if not name.isalpha() or end > len(data):
            break
        if name[:1].isupper():  # what the PNG standard calls critical
            kept.append(data[at:end])
        else:
            body = data[at + 8 : end - 4]
            if name == b"tRNS":
                trns = body
                if color == 3:
                    kept.append(data[at:end])
            elif name == b"iCCP" and profile is None:
                profile = _unpacked(body.partition(b"\0")[2][1:], _MAX_PROFILE)
            elif name == b"cICP" and length == 4:
                primaries = (body[0], body[1])
            elif name == b"eXIf":
                exif = body
            elif name == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0"):
                xmp = body[:_MAX_EXIF]
            elif name in (b"tEXt", b"zTXt") and body.startswith(b"Raw profile type exif\0"):
                exif = exif or _raw_exif(name, body)
        at = end
    kept.append(data[at:])
    samples = {0: 1, 2: 3}.get(color)
    is_keyed = trns is not None and samples is not None and len(trns) >= 2 * samples
    return Parts(
        b"".join(kept),
        orientation=orientation_of(exif, xmp),
        profile=profile,
        primaries=primaries,
        transparent=struct.unpack_from(f">{samples}H", trns) if is_keyed and trns else None,
        depth=depth,
    )


def _raw_exif(name: bytes, body: bytes) -> bytes | None:
    """EXIF as ImageMagick writes it: a name, a length, and digits."""
    text = body.partition(b"\0")[2]
    if name == b"zTXt":
        text = _unpacked(text[1:], _MAX_EXIF)
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return None


def _unpacked(data: bytes, limit: int) -> bytes:
    """Unpacks zlib data; b"" where it is damaged or larger."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, limit)
    except zlib.error:
        return b""
    return b"" if unpacker.unconsumed_tail else unpacked


def _jpeg(data: bytes) -> Parts:
    kept = [data[:2]]
    exif = xmp = None
    profiles: list[bytes] = []
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        if marker == 0xDA or length < 2 or len(body) < length - 2:
            break
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            exif = exif or body
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/"):
            xmp = xmp or body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profiles.append(body[12:])
        # JFIF and Adobe tell the decoder how colors are stored.
        is_about_color = (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12) or (
            marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        )
        is_comment = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if is_about_color or not is_comment:
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    kept.append(data[at:])
    # Each begins with its number and how many there are.
    profile = b"".join(part[2:] for part in sorted(profiles)) if profiles else None
    return Parts(b"".join(kept), orientation=orientation_of(exif, xmp), profile=profile)


def _boxes(data: bytes) -> Parts:
    """Without EXIF, which Pillow writes anew to add the orientation, and fails where it is odd.

    AVIF and HEIC have their orientation in a box of its own, which counts.
    """
    primaries = None
    if (at := data.find(b"colrnclx")) >= 0:
        primaries = struct.unpack_from(">HH", data, at + 8)
    at = data.find(b"meta")
    end = at + struct.unpack_from(">I", data, at - 4)[0] if at >= 4 else 0
    head = data[:end].replace(b"Exif\0", b"none\0")
    return Parts(head + data[end:], primaries=primaries)


@dataclass(frozen=True)
class _Layout:
    """How a TIFF's directory is written."""

    order: str
    count: str
    offset: str
    at: int

    @property
    def entry(self) -> int:
        return 4 + 2 * struct.calcsize(self.offset)


def _layout(data: bytes) -> _Layout:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise ValueError("neither II nor MM")
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version == 43:
        return _Layout(order, "Q", "Q", struct.unpack_from(f"{order}Q", data, 8)[0])
    return _Layout(order, "H", "I", struct.unpack_from(f"{order}I", data, 4)[0])


def _entries(data: bytes, layout: _Layout) -> list[tuple[int, int]]:
    """Tag and place of each entry of the first directory."""
    (count,) = struct.unpack_from(layout.order + layout.count, data, layout.at)
    start = layout.at + struct.calcsize(layout.count)
    if count > 4096 or start + count * layout.entry > len(data):
        raise ValueError("a directory beyond the end of the file")
    places = range(start, start + count * layout.entry, layout.entry)
    return [(struct.unpack_from(f"{layout.order}H", data, at)[0], at) for at in places]


def _read_tags(data: bytes, wanted: set[int]) -> dict[int, tuple[float, ...] | bytes]:
    layout = _layout(data)
    found: dict[int, tuple[float, ...] | bytes] = {}
    room = struct.calcsize(layout.offset)
    for tag, at in _entries(data, layout):
        if tag not in wanted:
            continue
        kind, count = struct.unpack_from(f"{layout.order}H{layout.offset}", data, at + 2)
        width, name = _TIFF_TYPES.get(kind, (0, ""))
        value_at = at + 4 + room
        if width * count > room:
            (value_at,) = struct.unpack_from(layout.order + layout.offset, data, value_at)
        if not width or not count or value_at + width * count > len(data):
            continue
        if name == "s" or (name == "B" and count > 8):
            found[tag] = data[value_at : value_at + count]
        elif count <= 64:
            found[tag] = struct.unpack_from(f"{layout.order}{count}{name}", data, value_at)
    return found


# NewSubfileType, BitsPerSample, Photometric, SamplesPerPixel, SampleFormat, SMin, SMax, SubIFDs,
# GDAL's value for "nothing here", DNGVersion.
_READ_TAGS = {254, 258, 262, 277, 339, 340, 341, 330, 42113, 50706, _ORIENTATION, _PROFILE_TAG}


def _tiff(data: bytes) -> Parts:
    layout = _layout(data)
    entries = _entries(data, layout)
    tags = _read_tags(data, _READ_TAGS)
    kept = b"".join(data[at : at + layout.entry] for tag, at in entries if tag in _LAYOUT_TAGS)
    count = len(kept) // layout.entry
    # The directory in its own place, shorter, and no page after it.
    head = struct.pack(layout.order + layout.count, count) + kept
    head += struct.pack(layout.order + layout.offset, 0)
    found = tags.get(_ORIENTATION)
    profile = tags.get(_PROFILE_TAG)
    is_known = isinstance(found, tuple) and found[0] in range(1, 9)
    has_profile = any(tag == _PROFILE_TAG for tag, _ in entries)
    return Parts(
        data[: layout.at] + head + data[layout.at + len(head) :],
        orientation=int(found[0]) if is_known and isinstance(found, tuple) else 1,
        profile=profile if isinstance(profile, bytes) else b"" if has_profile else None,
        tags=tags,
    )
