"""Runs with `--store`: every reader of ours, and those of the ecosystem, see what files hold."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

import dstc
from dstc.distillation import read_pilot
from dstc.distillation.read_pilot import PilotRow
from dstc.evaluation.measure_shard import read_images
from dstc.evaluation.plan import EvaluationConfig
from dstc.export import export
from dstc.report import write_report
from dstc.run_handle import open_run
from dstc.store.input_policy import ASKED_FOR
from dstc.store.run_folder import RunFolder
from dstc.verify import verify
from dstc.worker.image_cache import ImageCache
from tests.hostile.local_run import LocalRun

LABELS = {"boxes": "boxes", "keypoints": "points", "masks": "masks"}


@pytest.fixture(scope="module", params=["webdataset", "parquet"])
def stored(request: pytest.FixtureRequest, make_run: Callable[..., Path]) -> Path:
    return make_run(store=request.param, **LABELS)


def rows_of(run: Path) -> list[dict[str, Any]]:
    parts = sorted((run / "results").glob("*.parquet"))
    return list(pa.concat_tables(map(pq.read_table, parts)).to_pylist())


def pixels_of(run: Path) -> dict[str, np.ndarray]:
    return {row_id: np.asarray(image) for row_id, image in open_run(run).images()}


def test_images_of_a_run_in_python(stored: Path, finished: Path) -> None:
    ours, theirs = pixels_of(stored), pixels_of(finished)
    assert ours.keys() == theirs.keys() and len(ours) == 6
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    ours_and_theirs = zip(rows_of(stored), rows_of(finished), strict=True)
    for one, other in ours_and_theirs:
        for sum_of in ("image_sha256", "result_mask_sha256"):
            assert one[sum_of] == other[sum_of]


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset", "hf", "coco", "folder"])
def test_every_export_is_that_of_files(
    stored: Path, finished: Path, tmp_path: Path, kind: str
) -> None:
    label = "categories" if kind == "coco" else "label"
    found = []
    for name, run in (("ours", stored), ("theirs", finished)):
        export(str(run), str(tmp_path / name), kind, label_column=label, pairs=True)
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in files})
    ours, theirs = found
    for about_the_run in ("README.md", "annotations.json"):
        assert (about_the_run in ours) == (about_the_run in theirs)
        ours.pop(about_the_run, None), theirs.pop(about_the_run, None)
    assert ours == theirs and ours


def test_a_report_shows_the_images(stored: Path, finished: Path) -> None:
    pages = [Path(write_report(str(run))).read_text() for run in (stored, finished)]
    assert pages[0].count("data:image/") == pages[1].count("data:image/") > 6
    assert "%23bytes" not in pages[0], "no link to a file that no browser opens"


def test_an_evaluation_reads_the_images(stored: Path, finished: Path) -> None:
    found = []
    for run in (stored, finished):
        config = EvaluationConfig("", 0, 0, "", truth=None, image_size=64, fit="crop")
        row = rows_of(run)[1]
        folder = str(run.parent)
        cache: ImageCache[Any] = ImageCache(1 << 20)
        found.append(read_images(RunFolder(str(run)), config, row, folder, cache, ASKED_FOR))
    assert np.array_equal(found[0].result, found[1].result)


def test_a_student_learns_from_the_images(stored: Path, finished: Path) -> None:
    row = rows_of(stored)[0]
    pilot = SimpleNamespace(run=RunFolder(str(stored)), inputs=ASKED_FOR)
    made = read_pilot._result(pilot, PilotRow(None, row["image"], row["image_sha256"]))  # type: ignore[arg-type]
    assert np.array_equal(made, pixels_of(finished)[row["id"]])


def test_a_run_is_the_source_of_the_next(stored: Path, tmp_path: Path) -> None:
    built = dstc.build_manifest(stored, tmp_path / "next.parquet", prompts=["again"], replace=True)
    assert built.rows == 6 and not built.images, "nothing is copied"
    contents = pq.read_table(tmp_path / "next.parquet").column("content").to_pylist()
    assert all("#bytes=" in content for content in contents)
    run = LocalRun(tmp_path / "next.parquet", tmp_path / "next")
    run.translate()
    rows = rows_of(tmp_path / "next")
    assert [row["status"] for row in rows] == ["done"] * 6
    before = pixels_of(stored)
    for row_id, pixels in pixels_of(tmp_path / "next").items():
        inverted = 255 - before[row_id].astype(int)
        assert np.array_equal(pixels[1:, 1:], inverted[1:, 1:])


# webdataset leaves it to the garbage collector to close what it read.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_webdataset_reads_the_tars(make_run: Callable[..., Path], finished: Path) -> None:
    run = make_run(store="webdataset", samples=2, **LABELS)
    tars = sorted(map(str, (run / "images").glob("*.tar")))
    assert len(tars) == 2
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    keys = ["a/1", "a/1@1", "a/2", "a/2@1", "b%2E3", "b%2E3@1", "b%2E4", "b%2E4@1"]
    assert [sample["__key__"] for sample in samples] == [*keys, "c", "c@1", "d", "d@1"]
    expected = pixels_of(finished)
    for sample in samples[::2]:
        about = sample["json"]
        assert np.array_equal(np.asarray(sample["png"]), expected[about["id"]])
        assert about["prompt"].startswith("text ") and about["placement"]["offset_x"] == -16
        assert "content" not in about and "image" not in about and "losses" not in about
    seeds = {row["id"]: row["seed"] for row in rows_of(run)}
    assert samples[2]["json"]["seed"] == seeds["a/2"] != samples[3]["json"]["seed"]
    assert not np.array_equal(np.asarray(samples[2]["png"]), np.asarray(samples[3]["png"]))
    assert np.asarray(samples[2]["mask.png"])[15, 20].max() == 3
    assert verify(str(run)).is_whole


def test_the_ecosystem_reads_the_parquet(
    make_run: Callable[..., Path], finished: Path, tmp_path: Path
) -> None:
    run = make_run(store="parquet", **LABELS)
    files = str(run / "images" / "*.parquet")
    expected = pixels_of(finished)
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path)
    )
    assert isinstance(found.features["image"], datasets.Image)
    assert isinstance(found.features["mask_image"], datasets.Image)
    for row in found:
        assert np.array_equal(np.asarray(row["image"]), expected[row["id"]])
    assert found["id"] == ["a/1", "a/2", "b.3", "b.4", "c", "d"]
    assert found[1]["prompt"] == "text 1" and found[1]["placement"]["fit"] == "crop"
    assert found[1]["result_boxes"][0] == {"box": [14, 10, 16, 12], "inside": 1}
    assert np.asarray(found[1]["mask_image"])[15, 20] == 3
    assert not {"content", "losses", "image_sha256", "status"} & set(found.column_names)
    counted = duckdb.sql(f"SELECT label, count(*) FROM '{files}' GROUP BY ALL ORDER BY label")
    assert counted.fetchall() == [("and/or", 2), ("cat", 3), (None, 1)]
    frame = pd.read_parquet(sorted((run / "images").glob("*.parquet"))[1])
    assert frame["id"].tolist() == ["c", "d"]
    image = Image.open(io.BytesIO(frame["image"][0]["bytes"]))
    assert np.array_equal(np.asarray(image), expected["c"])
    assert frame["image"][0]["path"] == "c.png"


def test_one_image_is_read_by_plain_means(stored: Path) -> None:
    row = rows_of(stored)[3]
    file, _, numbers = row["image"].partition("#bytes=")
    first, last = map(int, numbers.split("-"))
    with (stored / file).open("rb") as container:
        container.seek(first)
        data = container.read(last - first + 1)
    assert hashlib.sha256(data).hexdigest() == row["image_sha256"]


def test_a_manifest_around_a_run_does_not_take_its_images_for_rows(stored: Path) -> None:
    from dstc.store.manifest_files import find_manifest_files

    _, files = find_manifest_files(str(stored.parent))
    assert [name for _, name in files] == ["rows.parquet"]
