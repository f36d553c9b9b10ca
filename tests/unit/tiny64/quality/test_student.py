"""The student's benchmark: its manifests, and what it compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dstc_engine.image import decode, encode_png
from tiny64.quality.student import LOOKS, STYLE_SUBJECT, Folder

CHOSEN = ["gloss-by-image", "gloss-by-text"]
OWN, TARGET = LOOKS[CHOSEN[0]].own, LOOKS[CHOSEN[0]].target


def drawings() -> list[dict[str, Any]]:
    """Three subjects in both styles, and one that lacks the target's."""
    rng = np.random.default_rng(0)
    return [
        {
            "subject": subject,
            "style": style,
            "split": split,
            "png": encode_png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)),
        }
        for subject, split in (
            (STYLE_SUBJECT, "train"),
            ("a", "train"),
            ("b", "test"),
            ("c", "test"),
        )
        for style in (OWN, TARGET)
        if (subject, style) != ("c", TARGET)
    ]


def test_a_manifest_has_each_subject_in_each_look_and_the_images_it_names(tmp_path: Path) -> None:
    folder = Folder(tmp_path, drawings(), CHOSEN)
    rows = pq.read_table(folder.write_manifest("pilot", "train", 5)).to_pylist()
    assert [row["id"] for row in rows] == [
        "gloss-by-image-a",
        "gloss-by-text-a",
    ], "no subject is its own style image"
    for row in rows:
        assert (tmp_path / row["content"]).is_file()
        assert (row["style"] is None) != (row["prompt"] is None)
        assert row["style"] is None or (tmp_path / row["style"]).is_file()


def test_each_try_is_a_row_of_its_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path, drawings(), CHOSEN[1:])
    rows = pq.read_table(folder.write_manifest("pilot", "train", 5, tries=3)).to_pylist()
    ids = [row.pop("id") for row in rows]
    assert ids == ["gloss-by-text-a", "gloss-by-text-a-1", "gloss-by-text-a-2"]
    assert rows[0] == rows[1] == rows[2]


def test_what_is_compared_are_the_rows_of_the_manifest(tmp_path: Path) -> None:
    folder = Folder(tmp_path, drawings(), CHOSEN)
    written = pq.read_table(folder.write_manifest("test", "test", 5)).to_pylist()
    subjects = folder.subjects(CHOSEN[0], "test", 5)
    assert subjects == ["b"], "c has no drawing in the target's style"
    rows = [row for look in CHOSEN for row in folder.benchmark_rows(look, subjects)]
    assert [row.request.id for row in rows] == [row["id"] for row in written]
    for row, asked in zip(rows, written, strict=True):
        content = decode((tmp_path / asked["content"]).read_bytes())
        np.testing.assert_array_equal(row.request.content, content)
        assert (row.request.style is None) == (asked["style"] is None)
        assert row.request.prompt == asked["prompt"] and row.truth is not None
