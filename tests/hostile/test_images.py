"""Image files: decoded as what they say, or refused by their name; never black and done."""

from __future__ import annotations

import io
import re
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dstc.worker.row import Rejected, Row, load_request
from dstc_engine.decoding.colors import display_p3
from dstc_engine.decoding.read import read_image
from dstc_engine.errors import ImageError
from dstc_engine.image import decode
from dstc_engine.request import TranslationRequest
from tests.hostile.case import Case
from tests.hostile.image_files import (
    COLORS,
    ODD_EXIF,
    RAMP,
    chunk,
    jpeg_with,
    png,
    saved,
    tiff,
    with_chunk,
)

KIND = "Images"
Pixels = np.ndarray[Any, Any]


def _load(data: bytes, folder: Path) -> TranslationRequest:
    (folder / "c.bin").write_bytes(data)
    row = Row("r", "c.bin", None, "x", None, None, 1)
    return load_request(row, str(folder))


# -- numbers -------------------------------------------------------------------------------------

UNIT = RAMP / 255.0
HOLES = UNIT.astype(np.float32)
HOLES[:2] = np.nan
NODATA = (UNIT * 3000 - 500).astype(np.float32)
NODATA[0, 0] = -9999
LOWEST = UNIT.astype(np.float32)
LOWEST[0, 0] = np.finfo(np.float32).min


def _done(name: str, what: str) -> Case:
    return Case(KIND, name, what, "done")


NUMBER_CASES: list[tuple[Case, Callable[[], bytes], str]] = [
    (
        _done("float_255", "a TIFF of floats from 0 to 255"),
        lambda: tiff(RAMP.astype(np.float32)),
        "0 to 255",
    ),
    (
        _done("float_unit", "a TIFF of floats from 0 to 1"),
        lambda: tiff(UNIT.astype(np.float32)),
        "0 to 1",
    ),
    (
        _done("float_signed", "a TIFF of floats from -1 to 1"),
        lambda: tiff((UNIT * 2 - 1).astype(np.float32)),
        "-1 to 1",
    ),
    (
        _done("float_4095", "a TIFF of floats from 0 to 4095"),
        lambda: tiff((UNIT * 4095).astype(np.float32)),
        "0 to 4095",
    ),
    (
        _done("float_depth", "a TIFF of floats from 0 to 10, as of depth"),
        lambda: tiff((UNIT * 10).astype(np.float32)),
        "0 to 10",
    ),
    (
        _done("nodata", "floats with a value set aside by GDAL for nothing"),
        lambda: tiff(NODATA, (42113, 2, (b"-9999\0",))),
        "-500 to 2500; 1 values",
    ),
    (
        _done("lowest", "floats, of which the lowest there is stands for nothing"),
        lambda: tiff(LOWEST),
        "0 to 1; 1 values",
    ),
    (
        _done("int32_255", "a TIFF of 32-bit integers from 0 to 255"),
        lambda: tiff(RAMP.astype(np.int32)),
        "0 to 255",
    ),
    (
        _done("uint32", "a TIFF of unsigned 32-bit integers up to their end"),
        lambda: tiff((UNIT * (2**32 - 1)).astype(np.uint32)),
        "0 to 4.29497e+09",
    ),
    (
        _done("int16", "a TIFF of signed 16-bit integers from -1024 to 3071"),
        lambda: tiff((UNIT * 4095 - 1024).astype(np.int16)),
        "-1024 to 3071",
    ),
    (
        _done("int8", "a TIFF of signed 8-bit integers"),
        lambda: tiff((UNIT * 255 - 128).round().astype(np.int8)),
        "-128 to 127",
    ),
    (
        _done("smax", "16 bits of which SMaxSampleValue says that white is 4095"),
        lambda: tiff((UNIT * 4095).astype(np.uint16), (340, 3, (0,)), (341, 3, (4095,))),
        "",
    ),
    (
        _done("smin_float", "floats with SMinSampleValue 1000 and SMaxSampleValue 2000"),
        lambda: tiff(
            (UNIT * 1000 + 1000).astype(np.float32), (340, 11, (1000.0,)), (341, 11, (2000.0,))
        ),
        "",
    ),
    (
        _done("white_is_zero", "16 bits of which the file says that 0 is white"),
        lambda: tiff(65535 - (RAMP.astype(np.uint16) * 257), photo=0),
        "",
    ),
    (
        _done("white_is_zero_float", "floats of which the file says that 0 is white"),
        lambda: tiff((1 - UNIT).astype(np.float32), photo=0),
        "0 to 1",
    ),
    (
        _done("twelve_bits", "a PGM of 12 bits"),
        lambda: b"P5 64 48 4095\n" + (UNIT * 4095).astype(">u2").tobytes(),
        "",
    ),
]


@pytest.mark.parametrize(
    ("case", "make", "told"), NUMBER_CASES, ids=[case.name for case, *_ in NUMBER_CASES]
)
def test_numbers_are_read_by_the_range_of_the_file_or_of_the_data(
    case: Case, make: Callable[[], bytes], told: str, tmp_path: Path
) -> None:
    request = _load(make(), tmp_path)
    assert request.content.shape == (48, 64, 3)
    off = np.abs(request.content[1:, :, 0].astype(int) - RAMP[1:])
    assert off.max() <= 1, case.what
    if told:
        assert request.note and request.note.startswith("note: content: ") and told in request.note
    else:
        assert request.note is None


def test_nan_is_left_out_of_the_range_and_told(tmp_path: Path) -> None:
    request = _load(tiff(HOLES), tmp_path)
    assert not request.content[:2].any()
    assert np.abs(request.content[2:, :, 0].astype(int) - RAMP[2:]).max() <= 1
    assert request.note and "128 values that are no numbers are black" in request.note


def test_colors_of_twelve_bits_in_sixteen_are_not_dark() -> None:
    values = (COLORS / 255 * 4095).astype(np.uint16)
    found = decode(tiff(values, (341, 3, (4095, 4095, 4095))))
    assert np.abs(found.astype(int) - COLORS).max() <= 1


# -- metadata ------------------------------------------------------------------------------------

PLAIN, JPEG, PROFILE = saved(COLORS), saved(COLORS, "JPEG", quality=95), b"no profile" * 20
PHOTO = decode(JPEG)
TURNED = {6: lambda pixels: np.rot90(pixels, -1), 1: lambda pixels: pixels}

METADATA_CASES: list[tuple[Case, Callable[[], bytes], Pixels, int]] = [
    (
        _done("png_text", "a PNG with 3 MB of text"),
        lambda: with_chunk(PLAIN, b"tEXt", b"note\0" + b"x" * (3 << 20)),
        COLORS,
        1,
    ),
    (
        _done("png_text_bomb", "a PNG whose text unpacks to 200 MB"),
        lambda: with_chunk(PLAIN, b"zTXt", b"note\0\0" + zlib.compress(bytes(200 << 20))),
        COLORS,
        1,
    ),
    (
        _done("png_profile", "a PNG with a color profile of no profile's bytes"),
        lambda: with_chunk(PLAIN, b"iCCP", b"x\0\0" + zlib.compress(PROFILE)),
        COLORS,
        1,
    ),
    (
        _done("png_profile_method", "a PNG with a color profile packed in an unknown way"),
        lambda: with_chunk(PLAIN, b"iCCP", b"x\0\7" + PROFILE),
        COLORS,
        1,
    ),
    (
        _done("png_short_chunks", "a PNG with gAMA, pHYs and tIME of one byte"),
        lambda: with_chunk(
            with_chunk(with_chunk(PLAIN, b"gAMA", b"x"), b"pHYs", b"x"), b"tIME", b"x"
        ),
        COLORS,
        1,
    ),
    (
        _done("png_text_sum", "a PNG whose text has a wrong checksum"),
        lambda: PLAIN[:33] + chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0" + PLAIN[33:],
        COLORS,
        1,
    ),
    (
        _done("png_exif", "a PNG with odd EXIF, resolution as text and a negative SHORT"),
        lambda: with_chunk(PLAIN, b"eXIf", ODD_EXIF),
        COLORS,
        6,
    ),
    (
        _done("jpeg_exif", "a JPEG with the same EXIF"),
        lambda: jpeg_with(JPEG, 0xE1, b"Exif\0\0" + ODD_EXIF),
        PHOTO,
        6,
    ),
    (
        _done("jpeg_exif_cut", "a JPEG whose EXIF ends in its header"),
        lambda: jpeg_with(JPEG, 0xE1, b"Exif\0\0II*\0\x08"),
        PHOTO,
        1,
    ),
    (
        _done("jpeg_profile", "a JPEG with a color profile of one byte"),
        lambda: jpeg_with(JPEG, 0xE2, b"ICC_PROFILE\0\1"),
        PHOTO,
        1,
    ),
    (
        _done("jpeg_mpf", "a JPEG with a broken list of further images"),
        lambda: jpeg_with(JPEG, 0xE2, b"MPF\0II*\0\xff\xff"),
        PHOTO,
        1,
    ),
    (
        _done("webp_exif", "a WebP with the same EXIF"),
        lambda: saved(COLORS, "WEBP", lossless=True, exif=ODD_EXIF),
        COLORS,
        6,
    ),
    (
        _done("tiff_resolution", "a TIFF with its resolution as text, in centimeters"),
        lambda: tiff(COLORS, (282, 2, (b"72 dpi\0",)), (283, 2, (b"72 dpi\0",)), (296, 3, (3,))),
        COLORS,
        1,
    ),
    (
        _done("tiff_negative", "a TIFF with a negative SHORT, a profile of no profile's bytes"),
        lambda: tiff(COLORS, (274, 3, (6,)), (296, 8, (-1,)), (34675, 7, (PROFILE,))),
        COLORS,
        6,
    ),
]


@pytest.mark.parametrize(
    ("case", "make", "expected", "orientation"),
    METADATA_CASES,
    ids=[case.name for case, *_ in METADATA_CASES],
)
def test_metadata_costs_no_pixel(
    case: Case, make: Callable[[], bytes], expected: Pixels, orientation: int, tmp_path: Path
) -> None:
    request = _load(make(), tmp_path)
    assert np.array_equal(request.content, TURNED[orientation](expected)), case.what
    is_profile = "profile" in case.what
    assert (request.note is not None) == is_profile, request.note


# -- colors and transparency ---------------------------------------------------------------------


def _wide(values: Pixels, color: int) -> list[bytes]:
    return [row.astype(">u2").tobytes() for row in values]


def test_sixteen_bit_gray_with_a_transparent_level() -> None:
    values = np.array([[0, 1000, 1001, 65535]], np.uint16)
    trns = chunk(b"tRNS", struct.pack(">H", 1000))
    found = decode(png(struct.pack(">IIBB", 4, 1, 16, 0), _wide(values, 0), trns))
    assert found[0, :, 0].tolist() == [0, 255, 3, 255]


def test_sixteen_bit_color_with_a_transparent_color() -> None:
    values = np.array([[[500, 600, 700], [500, 600, 701], [65535, 0, 0]]], np.uint16)
    trns = chunk(b"tRNS", struct.pack(">3H", 500, 600, 700))
    found = decode(png(struct.pack(">IIBB", 3, 1, 16, 2), _wide(values, 2), trns))
    assert found[0, 0].tolist() == [255] * 3 and found[0, 1].max() < 4
    assert found[0, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("depth", "level"), [(1, 0), (2, 1), (4, 5), (8, 85)])
def test_gray_of_few_bits_with_a_transparent_level(depth: int, level: int) -> None:
    trns = chunk(b"tRNS", struct.pack(">H", level))
    packed = bytes([level << (8 - depth), 0xFF]) if depth < 8 else bytes([level, 0xFF])
    width = 16 // depth
    found = decode(png(struct.pack(">IIBB", width, 1, depth, 0), [packed], trns))
    assert found[0, 0].tolist() == [255] * 3


CASES = [
    _done("display_p3", "a PNG in Display P3: red at (234, 51, 35) is sRGB's (255, 0, 0)"),
    _done("cicp_p3", "a PNG that tells Display P3 by numbers (cICP)"),
    _done("trns_16", "a transparent color in 16 bits"),
    _done("srgb_profile", "sRGB under a profile of its own: not a bit changes"),
    _done("jpeg_huge", "a JPEG of 49 megapixels: halved while it is decoded"),
]


def test_display_p3_becomes_srgb() -> None:
    red = np.full((4, 4, 3), (234, 51, 35), np.uint8)
    for data in (
        saved(red, icc_profile=display_p3()),
        with_chunk(saved(red), b"cICP", bytes([12, 13, 0, 1])),
        saved(red, "TIFF", icc_profile=display_p3()),
        saved(red, "WEBP", lossless=True, icc_profile=display_p3()),
        saved(np.dstack([red, np.full((4, 4), 255, np.uint8)]), icc_profile=display_p3()),
    ):
        found = decode(data)[0, 0].astype(int)
        assert np.abs(found - (255, 0, 0)).max() <= 4, found
    jpeg = decode(saved(red, "JPEG", quality=100, icc_profile=display_p3()))[0, 0]
    assert jpeg[0] > 250 and jpeg[1:].max() < 12


def test_srgb_stays_as_it_is() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(saved(COLORS, icc_profile=profile)), COLORS)


def test_a_profile_of_other_pixels_is_told() -> None:
    read = read_image(
        saved(Image.fromarray(COLORS).convert("CMYK"), "TIFF", icc_profile=display_p3())
    )
    assert read.notes == ("its color profile is for other pixels than these; read as sRGB",)


# -- no images -----------------------------------------------------------------------------------

_REJECTED = "rejected: unreadable_picture"
OTHER_CASES = [
    (Case(KIND, name, what, _REJECTED), data, told)
    for name, what, data, told in [
        ("jxl", "JPEG XL", b"\xff\x0a" + bytes(50), "JPEG XL; convert it"),
        ("jxl_box", "JPEG XL in a box", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), "JPEG XL; convert"),
        ("jp2", "JPEG 2000", saved(COLORS, "JPEG2000"), "JPEG 2000; convert it"),
        ("eps", "EPS, for which Ghostscript is never run", saved(COLORS, "EPS"), "EPS or Post"),
        (
            "lfs",
            "a git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "a git LFS pointer instead of the image; fetch the images with `git lfs pull`",
        ),
        ("html", "an HTML page", b"\n<!DOCTYPE html><html>Sign in</html>", "an HTML page; the URI"),
        ("json", "an error in JSON", b'{"error": "secret-token"}', "JSON; the server"),
        ("xml", "an error in XML", b"<?xml version='1.0'?><Error/>", "XML; the storage"),
        ("svg", "SVG", b"<?xml version='1.0'?><svg/>", "SVG; export it as PNG"),
        ("gzip", "a gzip file", b"\x1f\x8b\x08" + bytes(30), "a gzip file; unpack it"),
        ("zip", "a zip archive", b"PK\x03\x04" + bytes(30), "a zip archive; unpack it"),
        ("pdf", "PDF", b"%PDF-1.7", "PDF; export it as PNG"),
        ("psd", "a Photoshop file", b"8BPS\0\1" + bytes(40), "a Photoshop file; export"),
        ("exr", "OpenEXR", b"v/1\x01" + bytes(40), "OpenEXR; convert it"),
        ("npy", "a NumPy array", b"\x93NUMPY\1\0" + bytes(40), "a NumPy array; convert"),
        ("dicom", "DICOM", bytes(128) + b"DICM" + bytes(9), "DICOM; convert it"),
        ("mp4", "a video", b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video (MP4 or MOV)"),
        ("zeros", "a file of zeros", bytes(1000), "only zeros at its beginning; upload"),
        ("empty", "an empty file", b"", "an empty file; upload it again"),
        ("text", "text", b"hello there", "text; expected PNG, JPEG"),
        ("noise", "bytes of no format", bytes(range(200, 250)), "not known; expected PNG"),
        ("png_cut", "a PNG cut short", PLAIN[: len(PLAIN) // 2], "PNG, but cut short"),
        ("jpeg_cut", "a JPEG that is cut short", JPEG[:600], "JPEG, but cut short"),
        (
            "float64",
            "a TIFF of 64-bit floats",
            tiff(UNIT),
            "a TIFF of 1 x 64-bit floats, which is damaged or not read; convert it",
        ),
        (
            "float_rgb",
            "a TIFF of three channels of floats",
            tiff((COLORS / 255).astype(np.float32)),
            "a TIFF of 3 x 32-bit floats",
        ),
        ("dng", "a camera's raw file, whose first page is a preview",
         tiff(RAMP, (50706, 1, (1, 4, 0, 0))), "a raw file of a camera"),
        ("all_nan", "floats that are all NaN", tiff(np.full((4, 4), np.nan, np.float32)),
         "every value is NaN"),
        ("bomb", "a GIF of 90 megapixels in 35 bytes",
         b"GIF89a" + struct.pack("<HH", 9500, 9500) + b"\x80\0\0" + bytes(6)
         + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;", "9500 x 9500 pixels in 35 bytes"),
    ]
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "data", "told"), OTHER_CASES, ids=[case.name for case, *_ in OTHER_CASES]
)
def test_what_is_no_image_is_named(case: Case, data: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as rejection:
        _load(data, tmp_path)
    text = str(rejection.value)
    assert f"rejected: {rejection.value.reason}" == case.outcome
    assert told in text, text
    assert len(text) <= 500 and "secret" not in text
    assert not re.search(r"\\x|b'|[0-9a-f]{2} [0-9a-f]{2} [0-9a-f]{2}", text), text


def test_heic_asks_for_a_plugin_and_is_read_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from dstc_engine.decoding import formats

    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(80)
    formats._register_heic.cache_clear()
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="HEIC; convert it to PNG or JPEG, or install pi-heif"):
        decode(data)

    class Plugin:
        @staticmethod
        def register_heif_opener() -> None:
            opened = type("Opened", (type(Image.open(io.BytesIO(PLAIN))),), {"format": "HEIF"})
            monkeypatch.setitem(Image.OPEN, "HEIF", (opened, None))

    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: name == "pi_heif")
    monkeypatch.setitem(sys.modules, "pi_heif", Plugin)
    assert formats.format_of(data) == "HEIC"
    formats._register_heic.cache_clear()


def test_avif_is_read_and_turned_by_its_own_box() -> None:
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:, 16:] = 255
    exif = Image.Exif()
    exif[274] = 6
    data = saved(flat, "AVIF", quality=100, exif=exif)
    found = decode(data)
    assert found.shape == (32, 16, 3)
    assert found[:16].mean() < 5 and found[16:].mean() > 250


def test_a_jpeg_beyond_forty_megapixels_is_halved() -> None:
    data = saved(np.full((7000, 7000), 77, np.uint8), "JPEG")
    found = decode(data)
    assert found.shape == (3500, 3500, 3) and (found == 77).all()


# -- fuzz ----------------------------------------------------------------------------------------

SEEDS = [
    PLAIN,
    JPEG,
    saved(RAMP, "JPEG", progressive=True),
    saved(COLORS, "WEBP"),
    saved(COLORS, "WEBP", lossless=True, exif=ODD_EXIF, icc_profile=display_p3()),
    saved(COLORS, "GIF"),
    saved(COLORS, "BMP"),
    saved(COLORS, "PPM"),
    saved(COLORS, "AVIF", speed=10),
    saved(COLORS, "TIFF", compression="tiff_lzw"),
    saved(COLORS, "TIFF", compression="jpeg"),
    tiff(RAMP.astype(np.float32), (340, 11, (0.0,)), (341, 11, (255.0,))),
    saved(COLORS, icc_profile=display_p3(), exif=ODD_EXIF),
    jpeg_with(JPEG, 0xE1, b"Exif\0\0" + ODD_EXIF),
]


@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 255) | st.sampled_from([0, 1, 127, 255])),
        max_size=6,
    ),
    st.none() | st.integers(0, 4000),
)
@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow],
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_an_image_or_an_image_error(
    seed: bytes, damage: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(seed)
    for at, value in damage:
        data[at % len(data)] = value
    tracemalloc.start()
    started = time.thread_time()
    try:
        found = decode(bytes(data[:cut]), "file:///a.bin")
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    except ImageError as error:
        assert str(error).startswith("file:///a.bin: ") and len(str(error)) <= 500
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # What Python and NumPy take; Pillow's own image has 4 bytes for a pixel, 16 megapixels at most.
    assert peak < 140 << 20 and time.thread_time() - started < 1
