"""What the README and NOTICE promise about the demo that is shipped."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dstc_engine.engine import translate
from dstc_engine.image import decode
from dstc_engine.presets import get_preset
from dstc_engine.request import TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.load import load_student
from tiny64.captions import caption
from tiny64.families import family_of, split_of

FOLDER = Path(__file__).parents[3] / "manifests"
GLOSSY = FOLDER / "glossy"


@pytest.fixture(scope="module")
def rows():
    return pq.read_table(FOLDER / "demo.parquet").to_pylist()


@pytest.fixture(scope="module")
def glossy_rows():
    return pq.read_table(FOLDER / "glossy.parquet").to_pylist()


def test_eight_rows_of_each_kind_with_ids_of_their_own(rows):
    kinds = [row["id"].split("/")[0] for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {"text": 8, "image": 8, "both": 8}
    assert len({row["id"] for row in rows}) == 24


def test_each_kind_has_what_guides_it(rows):
    for row in rows:
        kind = row["id"].split("/")[0]
        assert (row["style"] is not None) == (kind in ("image", "both"))
        assert (row["prompt"] is not None) == (kind in ("text", "both"))
        if row["prompt"] is not None:
            assert row["prompt"] == caption(row["name"], row["target_style"])
            assert row["source_prompt"] == caption(row["name"], row["content_style"])


def test_no_subject_was_seen_in_training(rows, glossy_rows):
    for row in rows + glossy_rows:
        assert split_of(family_of(row["name"], row["label"])) == "val", row["name"]


def test_style_images_show_another_subject_in_another_style(rows):
    for row in rows:
        if row["style"] is not None:
            assert row["style"].startswith(f"demo/{row['target_style']}/")
            assert Path(row["style"]).name != Path(row["content"]).name
            assert row["target_style"] != row["content_style"]


def test_exactly_the_named_images_are_shipped_and_credited(rows, glossy_rows):
    every = rows + glossy_rows
    named = {row[column] for row in every for column in ("content", "style")} - {None}
    student = {f"glossy/{name}" for name in ("card.md", "student.json", "student.safetensors")}
    files = [*FOLDER.glob("demo/**/*.*"), *FOLDER.glob("glossy/**/*.*")]
    assert {path.relative_to(FOLDER).as_posix() for path in files} == named | student
    notice = (FOLDER.parent / "NOTICE").read_text()
    for folder in {Path(uri).parent.as_posix() for uri in named}:
        assert f"manifests/{folder}/*.png" in notice


def test_boxes_hold_the_drawing_tightly(rows):
    for row in rows:
        with Image.open(FOLDER / row["content"]) as image:
            assert (image.mode, image.size) == ("RGB", (256, 256))
            drawn = np.asarray(image).min(-1) < 255
        ys, xs = np.nonzero(drawn)
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.abs(np.subtract(row["box"], found)).max() <= 3, row["id"]


def test_the_shipped_student_knows_both_looks_and_passes_its_gates(glossy_rows):
    student = load_student(GLOSSY, get_preset("tiny64"))
    requests = [
        TranslationRequest(
            id=row["id"],
            content=decode((FOLDER / row["content"]).read_bytes()),
            seed=0,
            style=decode((FOLDER / row["style"]).read_bytes()) if row["style"] else None,
            prompt=row["prompt"],
            source_prompt=row["source_prompt"],
        )
        for row in glossy_rows
    ]
    assert [bool(r.prompt) for r in requests] == [False] * 7 + [True] * 7
    found = list(translate(StudentEngine(student), requests))
    assert {each.status for each in found} == {"done"}
    assert sum(not each.failed_gates for each in found) >= 10
    assert GLOSSY.joinpath("student.safetensors").stat().st_size < 2_000_000
