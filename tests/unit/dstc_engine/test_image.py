"""Image files of all kinds, fitting into a square, and the way to tensors and back."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dstc_engine.errors import ImageError
from dstc_engine.image import decode, encode_png, fit, fit_mask, unpad
from dstc_engine.request import ImageArray
from dstc_engine.tensors import to_image, to_tensor
from tests.unit.dstc_engine.tiny import image


def saved(opened: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    opened.save(buffer, format=kind, **options)
    return buffer.getvalue()


# -- decode --------------------------------------------------------------------------------------

UPRIGHT: dict[int, Callable[[ImageArray], ImageArray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: np.rot90(p, 2),
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_applied(orientation: int) -> None:
    stored = image(1, 12, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(saved(Image.fromarray(stored), exif=exif))
    assert np.array_equal(decoded, UPRIGHT[orientation](stored))


def test_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    decoded = decode(saved(Image.fromarray(pixels)))
    expected = [[200, 100, 0], [255, 255, 255], [244, 224, 204]]
    assert np.abs(decoded[0].astype(int) - expected).max() <= 1


def test_gray_with_alpha_is_laid_on_white() -> None:
    pixels = np.array([[[10, 255], [10, 0]]], np.uint8)
    decoded = decode(saved(Image.fromarray(pixels)))
    assert decoded.tolist() == [[[10] * 3, [255] * 3]]


def test_a_palette_with_a_transparent_color() -> None:
    opened = Image.new("P", (3, 1))
    opened.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    opened.putdata([0, 1, 2])
    data = saved(opened, transparency=1)
    assert decode(data).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    assert decode(saved(opened)).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


def test_sixteen_bits_are_scaled_down() -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    decoded = decode(saved(Image.fromarray(levels)))
    assert decoded.tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]


def test_a_nearly_black_sixteen_bit_image_stays_black() -> None:
    levels = np.array([[0, 1, 1, 0]], np.uint16)
    assert not decode(saved(Image.fromarray(levels))).any()


def test_cmyk_gray_and_one_bit() -> None:
    flat = Image.new("RGB", (8, 8), (250, 20, 30))
    decoded = decode(saved(flat.convert("CMYK"), "TIFF"))
    assert np.abs(decoded.astype(int) - (250, 20, 30)).max() <= 1
    gray = Image.fromarray(np.array([[7, 99]], np.uint8))
    assert decode(saved(gray)).tolist() == [[[7] * 3, [99] * 3]]
    bits = Image.fromarray(np.array([[True, False]]))
    assert decode(saved(bits)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_common_formats(kind: str) -> None:
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[:3, 4:] = (255, 0, 0)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(saved(Image.fromarray(pixels), kind, **options)), pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and brings no pixels of it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


WHOLE = saved(Image.fromarray(image(2, 40, 40)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image at all",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:20],
        saved(Image.fromarray(image(2, 40, 40)), "JPEG")[:400],
        png_header(50_000, 50_000),
        png_header(0, 10),
    ],
    ids=["empty", "text", "half", "header", "half-jpeg", "bomb", "no-width"],
)
def test_unreadable_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(ImageError, match="^s3://bucket/cat.png: ") as caught:
        decode(data, "s3://bucket/cat.png")
    assert str(len(data)) in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_image_too_large_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(ImageError, match=r"^x: 10001 x 10000 pixels; expected at most 100,000"):
        decode(png_header(10_001, 10_000), "x")


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(deadline=None, derandomize=True, database=None, max_examples=60)
def test_damaged_files_never_raise_anything_else(damage: bytes, at: int) -> None:
    try:
        decoded = decode(WHOLE[:at] + damage + WHOLE[at + len(damage) :])
    except ImageError:
        return
    assert decoded.dtype == np.uint8 and decoded.shape[2] == 3


# -- fit -----------------------------------------------------------------------------------------


def test_cropping_keeps_the_center_of_the_longer_side() -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 200
    for turned in (pixels, pixels.transpose(1, 0, 2)):
        fitted = fit(turned, 16)
        assert fitted.shape == (16, 16, 3)
        # Lanczos rings at an edge; a window off by a pixel would show black.
        assert np.abs(fitted.astype(int) - 200).max() <= 15


def test_cropping_does_not_squash() -> None:
    disc = np.hypot(*np.mgrid[-32:32, -60:60]) < 20
    pixels = (255 * disc)[..., None].repeat(3, axis=2).astype(np.uint8)
    fitted = fit(pixels, 32)[..., 0] > 127
    rows, columns = fitted.any(1).sum(), fitted.any(0).sum()
    assert abs(int(rows) - int(columns)) <= 1 and 18 <= rows <= 21


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 64))
@settings(deadline=None, derandomize=True, database=None, max_examples=80)
def test_unpadding_cuts_off_all_of_the_padding_and_nothing_else(
    height: int, width: int, size: int
) -> None:
    black = np.zeros((height, width, 3), np.uint8)
    padded = fit(black, size, "pad")
    assert padded.shape == (size, size, 3)
    inner = unpad(padded, height, width)
    assert not inner.any(), "white padding is left"
    assert int((padded == 0).sum()) == inner.size, "some of the image is cut off"
    assert max(inner.shape[:2]) == size
    assert abs(min(inner.shape[:2]) - min(height, width) * size / max(height, width)) <= 1


def test_a_image_of_the_right_size_is_left_alone() -> None:
    pixels = image(3, 16, 16)
    for mode in ("crop", "pad"):
        assert np.array_equal(fit(pixels, 16, mode), pixels)
        assert np.array_equal(unpad(pixels, 16, 16), pixels)
    mask = 255 * (pixels[..., 0] > 128).astype(np.uint8)
    assert np.array_equal(fit_mask(mask, 16), mask)


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(8, 64),
    st.sampled_from(["crop", "pad"]),
    st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True, database=None, max_examples=150)
def test_a_fitted_mask_is_gray_only_where_an_edge_runs_through_a_pixel(
    height: int, width: int, size: int, mode: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.full((height, width), 255, np.uint8)
    top, left = rng.integers(height), rng.integers(width)
    mask[top : top + int(rng.integers(1, height + 1)), left:] = 0
    fitted = fit_mask(mask, size, mode)
    assert fitted.shape == (size, size) and fitted.dtype == np.uint8
    inner = unpad(fitted, height, width) if mode == "pad" else fitted
    # The part of the mask that each pixel covers, from the definition of both ways to fit.
    rows, columns = inner.shape
    scale = min(height, width) / size if mode == "crop" else None
    down = scale or height / rows
    right = scale or width / columns
    skip_y, skip_x = (height - rows * down) / 2, (width - columns * right) / 2
    for y in range(rows):
        for x in range(columns):
            # A pixel whose part is all black or all white, a hair's breadth around it included.
            low_y, high_y = skip_y + y * down - 1e-3, skip_y + (y + 1) * down + 1e-3
            low_x, high_x = skip_x + x * right - 1e-3, skip_x + (x + 1) * right + 1e-3
            part = mask[
                max(0, int(np.floor(low_y))) : int(np.ceil(high_y)),
                max(0, int(np.floor(low_x))) : int(np.ceil(high_x)),
            ]
            if (part == 0).all():
                assert inner[y, x] == 0, "black must stay untouched"
            if (part == 255).all():
                assert inner[y, x] == 255
    if mode == "pad":
        assert int((fitted == 255).sum()) == size * size - inner.size + int((inner == 255).sum())


def test_a_pixel_on_an_edge_of_a_mask_has_the_edges_share() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 26:] = 255
    fitted = fit_mask(mask, 16)
    assert fitted[5].tolist() == [0] * 6 + [128] + [255] * 9
    lanczos = fit(mask[..., None].repeat(3, axis=2), 16)[5, :, 0]
    assert lanczos[:6].any(), "what a filter that rings would touch"


# -- tensors and bytes ---------------------------------------------------------------------------


def test_all_levels_go_to_tensors_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = to_tensor(levels)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (-1, 1)
    assert np.array_equal(to_image(tensor), levels)
    # Off by less than half a level, the level stays.
    for shift in (-0.0039, 0.0039):
        assert np.array_equal(to_image(tensor + shift), levels)


def test_channels_and_axes_keep_their_places() -> None:
    pixels = image(4, 5, 7)
    tensor = to_tensor(pixels)
    assert float(tensor[2, 4, 1]) == pytest.approx(pixels[4, 1, 2] / 127.5 - 1, abs=1e-6)
    assert np.array_equal(to_image(tensor), pixels)


def test_tensors_out_of_range_are_clamped() -> None:
    tensor = torch.tensor([-7.0, 7.0, 0.0])[:, None, None]
    assert to_image(tensor)[0, 0].tolist() == [0, 255, 128]


def test_png_bytes_are_the_same_for_the_same_image() -> None:
    pixels = image(5, 10, 12)
    texts = {"prompt": "ein Füchslein 狐", "seed": "7"}
    data = encode_png(pixels, texts)
    assert data == encode_png(pixels.copy(), dict(texts))
    assert data != encode_png(pixels, texts | {"seed": "8"})
    assert np.array_equal(decode(data), pixels)
    with Image.open(io.BytesIO(data)) as opened:
        assert {key: str(value) for key, value in opened.text.items()} == texts  # type: ignore[attr-defined]
    assert np.array_equal(decode(encode_png(pixels)), pixels)
