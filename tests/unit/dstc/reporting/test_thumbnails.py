from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dstc.reporting.thumbnails import Thumbnail, Thumbnails, link_to, shrink
from dstc.store.input_policy import InputPolicy


def _decoded(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.data is not None
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.data.partition(",")[2])))


def _noise(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_small_images_come_back_pixel_by_pixel() -> None:
    image = _noise(64, 48)
    small = shrink(image, 256)
    assert (small.width, small.height) == (48, 64)
    assert np.array_equal(np.asarray(_decoded(small)), image)


def test_large_images_take_the_smaller_file() -> None:
    noisy, flat = shrink(_noise(300, 600), 256), shrink(np.zeros((300, 600, 3), np.uint8), 256)
    assert (noisy.width, noisy.height) == (256, 128) == _decoded(noisy).size
    assert noisy.data is not None and noisy.data.startswith("data:image/jpeg;base64,")
    assert flat.data is not None and flat.data.startswith("data:image/png;base64,")


def test_padded_content_is_cropped_back_like_its_result(tmp_path: Path) -> None:
    Image.fromarray(_noise(50, 100)).save(tmp_path / "a.png")
    padded = Thumbnails(256, 64, "pad").input(str(tmp_path / "a.png"))
    cropped = Thumbnails(256, 64, "crop").input(str(tmp_path / "a.png"))
    assert (padded.width, padded.height) == (64, 32)
    assert (cropped.width, cropped.height) == (64, 64)


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    thumbnails = Thumbnails(256)
    assert thumbnails.result(str(tmp_path / "a.png")).problem == "not a readable image"
    assert thumbnails.result(str(tmp_path / "b.png")).problem == "there is no such file"
    assert thumbnails.input("nosuch://a/b.png").problem == "a URI that cannot be used"


def test_storage_that_does_not_answer_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refuse(uri: str, policy: InputPolicy) -> bytes:
        asked.append(uri)
        raise ConnectionError("user:secret")

    monkeypatch.setattr("dstc.reporting.thumbnails.read_input", refuse)
    thumbnails = Thumbnails(256)
    problems = [thumbnails.result(f"s3://me:secret@b/{n}.png").problem for n in range(6)]
    assert len(asked) == 4
    assert problems[0] == "cannot be fetched: ConnectionError"
    assert problems[-1] == "not tried: s3://b did not answer"


@pytest.mark.parametrize(
    ("uri", "beside", "link"),
    [
        ("/run/images/4/a b.png", "/run", "images/4/a%20b.png"),
        ("/data/javascript:x.png", "/run", "../data/javascript%3Ax.png"),
        ("/data/a.png", None, None),
        ("/data/a.png", "s3://bucket/run", None),
        ("s3://bucket/run/images/a.png", "s3://bucket/run", "images/a.png"),
        ("s3://bucket/a.png", "s3://bucket/run", None),
        ("https://host/a.png", None, "https://host/a.png"),
        ("https://host/a.png?signature=x", None, None),
    ],
)
def test_links_go_where_a_browser_can(uri: str, beside: str | None, link: str | None) -> None:
    assert link_to(uri, beside) == link
