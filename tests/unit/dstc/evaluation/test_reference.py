"""The reference of an evaluation: which images count, and what tells their styles."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.errors import SettingsError
from dstc.evaluation.reference import Reference, fit_classifier, read_reference
from dstc_engine.image import encode_png
from tests.unit.dstc.evaluation.conftest import image, save


def write(path: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_images_as_bytes_and_as_uris(tmp_path: Path) -> None:
    a, b = image(1), image(2, 100, 50)
    by_bytes = write(tmp_path / "a.parquet", png=[encode_png(a), encode_png(b)], style=["x", None])
    found = read_reference(by_bytes, {})
    assert found.styles == ["x", None]
    assert np.array_equal(found.decode(0, 64, "crop"), a)
    assert found.decode(1, 64, "pad").shape == (64, 64, 3)
    save(tmp_path / "images" / "a.png", a)
    by_uri = write(tmp_path / "b.parquet", image=["images/a.png"])
    assert np.array_equal(read_reference(by_uri, {}).decode(0, 64, "crop"), a)


def test_rows_that_count(tmp_path: Path) -> None:
    uri = write(
        tmp_path / "a.parquet",
        image=[f"{n}.png" for n in range(6)],
        split=["train", "test"] * 3,
        size=[1, 1, 1, 2, 2, 2],
    )
    assert read_reference(uri, {"split": "train", "size": "2"}).images == ["4.png"]
    with pytest.raises(SettingsError, match="no row of 6 has {'split': 'nosuch'}"):
        read_reference(uri, {"split": "nosuch"})
    with pytest.raises(SettingsError, match="found columns image, split, size; expected where"):
        read_reference(uri, {"where": "x"})


def test_files_that_are_no_reference(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        read_reference(str(tmp_path / "gone.parquet"), {})
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(SettingsError, match="not a Parquet file"):
        read_reference(str(tmp_path / "bad.parquet"), {})
    with pytest.raises(SettingsError, match="expected png or image"):
        read_reference(write(tmp_path / "c.parquet", name=["a"]), {})


def test_the_classifier_says_how_often_it_is_right() -> None:
    def drawn(level: int) -> bytes:
        made = np.full((32, 32, 3), 255, np.uint8)
        made[8:24, 8:24] = level
        return encode_png(made)

    levels = [*range(20, 60), *range(140, 180)]
    styles = ["dark" if level < 100 else "pale" for level in levels]
    reference = Reference([drawn(level) for level in levels], styles, "")
    classifier, right = fit_classifier(reference, 32, "crop")
    assert right == 1.0 and classifier.styles == ["dark", "pale"]
    # What is no style of its own cannot be told: held-out images say so.
    shuffled = np.random.default_rng(0).permutation(styles).tolist()
    assert fit_classifier(Reference(reference.images, shuffled, ""), 32, "crop")[1] < 0.9
    with pytest.raises(SettingsError, match="found 80 images of 1 styles"):
        fit_classifier(Reference(reference.images, ["dark"] * 80, ""), 32, "crop")
    broken = [*reference.images[:-1], io.BytesIO(b"x").getvalue()]
    with pytest.raises(SettingsError, match="image 79 of the reference: not a readable"):
        fit_classifier(Reference(broken, styles, ""), 32, "crop")
