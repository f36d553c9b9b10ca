"""Masks: black and white, 0 and 1 or alpha, read as they are meant; others refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dstc.worker.row import Rejected, Row, load_request
from dstc_engine.decoding.mask import read_mask
from dstc_engine.errors import ImageError
from tests.hostile.case import Case
from tests.hostile.image_files import ODD_EXIF, chunk, png, saved, tiff, with_chunk

KIND = "Masks"
Pixels = np.ndarray[Any, Any]
# A disc: what is inside is to be translated.
INSIDE: Pixels = np.hypot(*np.mgrid[-32:32, -40:40]) < 20
WHITE = np.where(INSIDE, 255, 0).astype(np.uint8)
SOFT = np.asarray(Image.fromarray(WHITE).resize((40, 32)).resize((80, 64)))


def _rgba(rgb: Any, alpha: Any) -> Pixels:
    pixels = np.zeros((*INSIDE.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = rgb, alpha
    return pixels


def _palette(indices: Pixels, colors: list[int]) -> Image.Image:
    opened = Image.fromarray(indices.astype(np.uint8)).convert("P")
    opened.putdata(indices.reshape(-1).tolist())
    opened.putpalette(colors)
    return opened


def _bits(values: Pixels, kind: Any) -> bytes:
    return tiff(values.astype(kind))


def _done(name: str, what: str) -> Case:
    return Case(KIND, name, what, "done")


GOOD_CASES: list[tuple[Case, Callable[[], bytes]]] = [
    (_done("mask_8", "black and white, 8 bits"), lambda: saved(WHITE)),
    (_done("mask_1", "black and white, 1 bit"), lambda: saved(Image.fromarray(INSIDE))),
    (_done("mask_01", "0 and 1 in 8 bits"), lambda: saved(INSIDE.astype(np.uint8))),
    (_done("mask_16", "black and white, 16 bits"), lambda: saved(WHITE.astype(np.uint16) * 257)),
    (_done("mask_16_01", "0 and 1 in 16 bits"), lambda: saved(INSIDE.astype(np.uint16))),
    (_done("mask_16_255", "0 and 255 in 16 bits"), lambda: saved(WHITE.astype(np.uint16))),
    (_done("mask_float", "floats, 0 and 1"), lambda: _bits(INSIDE, np.float32)),
    (_done("mask_float_255", "floats, 0 and 255"), lambda: _bits(WHITE, np.float32)),
    (_done("mask_int32", "32-bit integers, 0 and 1"), lambda: _bits(INSIDE, np.int32)),
    (_done("mask_white_is_zero", "a TIFF of which 0 is white"),
     lambda: tiff(65535 - WHITE.astype(np.uint16) * 257, photo=0)),
    (_done("mask_rgb", "black and white in three channels"),
     lambda: saved(WHITE[..., None].repeat(3, 2))),
    (_done("mask_jpeg", "a JPEG, gray along its edges"), lambda: saved(WHITE, "JPEG", quality=80)),
    (_done("mask_soft", "edges made soft by a resize"), lambda: saved(SOFT)),
    (_done("mask_soft_16", "soft edges in 16 bits"), lambda: saved(SOFT.astype(np.uint16) * 257)),
    (_done("mask_soft_float", "soft edges in floats"),
     lambda: _bits(SOFT / 255, np.float32)),
    (_done("mask_alpha", "an alpha channel over black"), lambda: saved(_rgba(0, WHITE))),
    (_done("mask_alpha_white", "an alpha channel over white"), lambda: saved(_rgba(255, WHITE))),
    (_done("mask_alpha_cut", "white where it is opaque, black where it is not"),
     lambda: saved(_rgba(WHITE[..., None], WHITE))),
    (_done("mask_alpha_opaque", "black and white with an alpha channel that is all opaque"),
     lambda: saved(_rgba(WHITE[..., None], 255))),
    (_done("mask_palette", "black and white in a palette"),
     lambda: saved(_palette(INSIDE, [0, 0, 0, 255, 255, 255]))),
    (_done("mask_palette_turned", "a palette that begins with white"),
     lambda: saved(_palette(~INSIDE, [255, 255, 255, 0, 0, 0]))),
    (_done("mask_palette_01", "a palette's classes 0 and 1, in colors"),
     lambda: saved(_palette(INSIDE, [0, 0, 0, 128, 0, 0]))),
    (_done("mask_gif", "a GIF"), lambda: saved(WHITE, "GIF")),
    (_done("mask_webp", "a WebP"), lambda: saved(WHITE[..., None].repeat(3, 2), "WEBP")),
    (_done("mask_text", "a PNG with 3 MB of text"),
     lambda: with_chunk(saved(WHITE), b"tEXt", b"note\0" + b"x" * (3 << 20))),
    (_done("mask_trns", "black that is set aside as transparent"),
     lambda: with_chunk(saved(WHITE), b"tRNS", b"\0\0")),
]  # fmt: skip


@pytest.mark.parametrize(("case", "make"), GOOD_CASES, ids=[case.name for case, _ in GOOD_CASES])
def test_a_mask_is_what_it_means(case: Case, make: Callable[[], bytes]) -> None:
    found = read_mask(make()).pixels
    assert found.shape == INSIDE.shape and found.dtype == np.uint8
    wrong = (found == 255) != INSIDE
    # The resized ones lie half a pixel off along the edge.
    allowed = 40 if "soft" in case.name else 0
    assert set(np.unique(found)) == {0, 255} and wrong.sum() <= allowed, case.what


CLASSES = INSIDE + 2 * (np.indices(INSIDE.shape)[1] > 60).astype(np.uint8)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0]
VOID = np.where(CLASSES == 2, 255, CLASSES).astype(np.uint8)
TRIMAP = (CLASSES * 127.5).astype(np.uint8)
GRADIENT = np.tile(np.arange(80, dtype=np.uint8) * 3, (64, 1))
HOLES = INSIDE.astype(np.float32)
HOLES[0, 0] = np.nan


def _rejected(name: str, what: str) -> Case:
    return Case(KIND, name, what, "rejected: bad_mask")


BAD_CASES: list[tuple[Case, Callable[[], bytes], str]] = [
    (_rejected("classes", "classes 0, 1 and 2"), lambda: saved(CLASSES), "look like classes"),
    (_rejected("classes_void", "classes 0 and 1, and 255 for none"), lambda: saved(VOID),
     "look like classes"),
    (_rejected("classes_16", "classes in 16 bits"), lambda: saved(CLASSES.astype(np.uint16) * 9),
     "its values go from 0 to 18"),
    (_rejected("classes_palette", "a palette of three classes"),
     lambda: saved(_palette(CLASSES, VOC)), "3 classes of a palette"),
    (_rejected("two_classes", "classes 0 and 15"), lambda: saved(INSIDE.astype(np.uint8) * 15),
     "levels are 0 and 15"),
    (_rejected("trimap", "a trimap, with areas of half gray"), lambda: saved(TRIMAP),
     "look like classes"),
    (_rejected("gradient", "a gradient"), lambda: saved(GRADIENT), "of them gray"),
    (_rejected("colored", "red on black"),
     lambda: saved(WHITE[..., None] * np.array([1, 0, 0], np.uint8)), "it has colors"),
    (_rejected("mask_nan", "floats with NaN"), lambda: tiff(HOLES), "NaN or infinite"),
    (_rejected("mask_negative", "floats from -1 to 1"),
     lambda: _bits(INSIDE * 2.0 - 1, np.float32), "its values are -1 and 1"),
    (_rejected("alpha_and_color", "an alpha channel that says the reverse of the colors"),
     lambda: saved(_rgba(255 - WHITE[..., None], WHITE)), "both its colors and its alpha"),
    (_rejected("alpha_none", "colors, and transparent all over"),
     lambda: saved(_rgba(7, 0)), "transparent all over"),
    (_rejected("gray", "gray all over"), lambda: saved(np.full((64, 80), 100, np.uint8)),
     "only level is 100"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "make", "told"), BAD_CASES, ids=[case.name for case, *_ in BAD_CASES]
)
def test_what_is_no_mask_is_rejected_by_name(
    case: Case, make: Callable[[], bytes], told: str, tmp_path: Path
) -> None:
    (tmp_path / "m.bin").write_bytes(make())
    Image.new("RGB", (80, 64)).save(tmp_path / "c.png")
    with pytest.raises(Rejected) as rejection:
        load_request(Row("r", "c.png", None, "x", None, "m.bin", 1), str(tmp_path))
    assert f"rejected: {rejection.value.reason}" == case.outcome
    text = str(rejection.value)
    assert text.startswith("mask m.bin: not a mask: ") and told in text, text
    assert "expected black and white, 0 and 1, or an alpha channel over one color" in text


def test_masks_of_one_level() -> None:
    for pixels, white in [
        (np.zeros((8, 8), np.uint8), False),
        (np.full((8, 8), 255, np.uint8), True),
        (np.ones((8, 8), np.uint8), True),
        (np.zeros((8, 8), np.uint16), False),
        (np.full((8, 8), 65535, np.uint16), True),
        (np.ones((8, 8), np.float32), True),
    ]:
        kind = "TIFF" if pixels.dtype == np.float32 else "PNG"
        assert (read_mask(saved(pixels, kind)).pixels == 255 * white).all(), pixels.dtype


def test_a_mask_is_turned_as_its_file_says() -> None:
    found = read_mask(with_chunk(saved(WHITE), b"eXIf", ODD_EXIF)).pixels
    assert np.array_equal(found == 255, np.rot90(INSIDE, -1))


def test_a_very_large_mask_is_halved_as_its_content_is() -> None:
    mask = np.zeros((6401, 6400), bool)
    mask[:, 3200:] = True
    found = read_mask(saved(Image.fromarray(mask))).pixels
    assert found.shape == (3201, 3200)
    assert not found[:, :1600].any() and (found[:, 1600:] == 255).all()


def test_two_bits_of_gray() -> None:
    rows = [bytes([0b00001111])] * 4
    assert read_mask(png(struct.pack(">IIBB", 4, 4, 2, 0), rows)).pixels[0].tolist() == [
        0, 0, 255, 255,
    ]  # fmt: skip
    assert chunk(b"IEND", b"")[4:8] == b"IEND"


@given(st.binary(max_size=60), st.integers(0, 300), st.sampled_from(["PNG", "GIF", "BMP", "TIFF"]))
@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_mask_is_a_mask_or_an_image_error(damage: bytes, at: int, kind: str) -> None:
    data = saved(WHITE, kind)
    try:
        found = read_mask(data[:at] + damage + data[at + len(damage) :])
    except ImageError:
        return
    assert set(np.unique(found.pixels)) <= {0, 255}
