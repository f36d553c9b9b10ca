"""Manifests of val subjects: the kinds of rows, what they name, and what they keep apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc_engine.image import encode_png
from tests.unit.dstc_engine import tiny
from tiny64.captions import STYLE_PHRASES
from tiny64.quality.val_rows import KINDS, val_rows, write_rows


def drawn(subject: str, style: str, split: str = "val") -> dict[str, Any]:
    return {
        "subject": subject,
        "name": f"name of {subject}",
        "style": style,
        "split": split,
        "png": f"{subject} {style}".encode(),
    }


IMAGES = [
    *(drawn(subject, style) for subject in "abcde" for style in STYLE_PHRASES),
    *(drawn(subject, style, "train") for subject in "xyz" for style in STYLE_PHRASES),
    drawn("f", "noto"),  # in one style alone
    drawn("a", "emojione"),  # a style without a phrase
]


def test_rows_name_val_subjects_in_two_styles_each() -> None:
    rows = val_rows(IMAGES, 60)
    assert rows == val_rows(IMAGES, 60) != val_rows(IMAGES, 60, seed=1)
    assert len({row["id"] for row in rows}) == 60
    for number, row in enumerate(rows):
        kind = KINDS[number % 3]
        own, content = row["content"].split("/")
        assert content[0] in "abcde" and own in STYLE_PHRASES
        assert (row["style"] is None, row["prompt"] is None) == (kind == "text", kind == "image")
        target = row["id"].split("-")[-1]
        assert target != own
        if row["style"]:
            assert row["style"].split("/")[0] == target
            assert row["style"].split("/")[1] != content, "the style image shows the answer"
        if row["prompt"]:
            assert row["prompt"] == f"name of {content[0]}, {STYLE_PHRASES[target]}"
            assert row["source_prompt"] == f"name of {content[0]}, {STYLE_PHRASES[own]}"


def test_the_images_lie_beside_the_manifest(tmp_path: Path) -> None:
    data = tmp_path / "data.parquet"
    png = encode_png(tiny.image(1))
    pq.write_table(pa.Table.from_pylist([p | {"png": png} for p in IMAGES]), data)
    manifest = write_rows(data, tmp_path / "rows", 9)
    rows = pq.read_table(manifest).to_pylist()
    assert len(rows) == 9
    for row in rows:
        for column in ("content", "style"):
            if row[column]:
                assert (manifest.parent / row[column]).read_bytes() == png
