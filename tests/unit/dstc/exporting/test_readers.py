"""Each form of a data set, read by the readers of its ecosystem."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
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
from pycocotools.coco import COCO
from torchvision.datasets import ImageFolder

from dstc.errors import JobError, RunFolderError, SettingsError
from dstc.export import export
from dstc.exporting.folder import safe_name
from dstc.exporting.items import label_of
from tests.hostile.local_run import LocalRun
from tests.unit.dstc.manifests.files import build, write_images


def results(run: Path) -> dict[str, dict[str, Any]]:
    rows = pd.concat(pd.read_parquet(part) for part in sorted((run / "results").glob("*")))
    return {row["id"]: row for row in rows.to_dict("records")}


def pixels_of(run: Path, row_id: str) -> np.ndarray:
    return np.asarray(Image.open(run / results(run)[row_id]["image"]))


def test_image_folder(finished: Path, tmp_path: Path) -> None:
    made = export(
        str(finished),
        str(tmp_path / "to"),
        "imagefolder",
        label_column="label",
        split_column="split",
    )
    assert (made.images, made.left_out) == (5, {"without a label": 1, "rejected": 1})
    train = ImageFolder(tmp_path / "to" / "train")
    assert train.classes == ["and%2For", "cat"]
    assert sorted(Path(path).name for path, _ in train.samples) == ["1.png", "2.png", "b.4.png"]
    (path,) = [path for path, _ in train.samples if path.endswith("/2.png")]
    image, label = train[[path for path, _ in train.samples].index(path)]
    assert train.classes[label] == "cat"
    assert np.array_equal(np.asarray(image), pixels_of(finished, "a/2"))
    assert len(ImageFolder(tmp_path / "to" / "val")) == 2


def test_folders_of_ids_that_repeat_split_and_class_are_left_out(tmp_path: Path) -> None:
    names = ["train/bird/1.png", "train/cat/1.png", "train/cat/2.png", "val/bird/1.png"]
    write_images(tmp_path / "pics", names)
    build(tmp_path / "rows.parquet", tmp_path / "pics", prompts=["x"])
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    # In one folder: a row that would take the name of a shortened one, and one that keeps a folder.
    rows += [{**rows[0], "id": "1"}, {**rows[0], "id": "val/3"}]
    assert [row["id"] for row in rows] == [
        *("train/bird/1", "train/cat/1", "train/cat/2", "val/bird/1", "1", "val/3")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    LocalRun(tmp_path / "rows.parquet", tmp_path / "run").translate(samples_per_row=2)
    run, to = str(tmp_path / "run"), tmp_path / "to"

    export(run, str(to), "imagefolder", label_column="label", split_column="split")
    found = {
        split: [Path(p).relative_to(to).as_posix() for p, _ in ImageFolder(to / split).samples]
        for split in ("train", "val")
    }
    assert found["train"] == [
        *("train/bird/1.png", "train/bird/1@1.png"),
        *("train/bird/train/bird/1.png", "train/bird/train/bird/1@1.png"),
        *("train/bird/val/3.png", "train/bird/val/3@1.png"),
        *("train/cat/1.png", "train/cat/1@1.png", "train/cat/2.png", "train/cat/2@1.png"),
    ]
    assert found["val"] == ["val/bird/1.png", "val/bird/1@1.png"]
    # Without splits, the ids' first folder is not that of the class.
    export(run, str(tmp_path / "flat"), "imagefolder", label_column="label")
    assert (tmp_path / "flat/bird/val/bird/1.png").exists()


def test_pairs_lie_on_each_other(finished: Path, tmp_path: Path) -> None:
    export(str(finished), str(tmp_path), "imagefolder", label_column="label", pairs=True)
    names = [
        [Path(p).relative_to(tmp_path / part) for p, _ in ImageFolder(tmp_path / part).samples]
        for part in ("result", "content")
    ]
    assert names[0] == names[1]
    for name in names[0]:
        result = np.asarray(Image.open(tmp_path / "result" / name)).astype(int)
        content = np.asarray(Image.open(tmp_path / "content" / name)).astype(int)
        assert (result + content)[1:, 1:].tolist() == np.full((63, 63, 3), 255).tolist()


# webdataset leaves it to the garbage collector to close what it read.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_web_dataset(finished: Path, tmp_path: Path) -> None:
    made = export(
        str(finished),
        str(tmp_path),
        "webdataset",
        label_column="label",
        split_column="split",
        pairs=True,
    )
    assert made.images == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "classes.txt",
        "train-000000.tar",
        "val-000000.tar",
    ]
    classes = (tmp_path / "classes.txt").read_text().splitlines()
    samples = list(
        webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False).decode("pil")
    )
    assert [sample["__key__"] for sample in samples] == ["a/1", "a/2", "b%2E4"]
    assert [sample["json"]["id"] for sample in samples] == ["a/1", "a/2", "b.4"]
    assert [classes[sample["cls"]] for sample in samples] == ["and/or", "cat", "and/or"]
    second = samples[1]
    assert np.array_equal(np.asarray(second["png"]), pixels_of(finished, "a/2"))
    assert np.asarray(second["content.png"])[15, 20, 0] == 255
    assert np.asarray(second["mask.png"]).shape[:2] == (64, 64)
    about = second["json"]
    assert about["prompt"] == "text 1"
    assert about["placement"]["offset_x"] == -16 and about["secret"] == "no secret"
    assert "content" not in about and "image" not in about and "losses" not in about


def test_the_same_run_makes_the_same_tar(finished: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export(str(finished), str(tmp_path / name), "webdataset")
    one, other = (next((tmp_path / name).iterdir()).read_bytes() for name in ("one", "other"))
    assert one == other


def test_hugging_face(finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    made = export(
        str(finished), str(to), "hf", label_column="label", split_column="split", pairs=True
    )
    assert made.images == 5
    found = datasets.load_dataset(str(to), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in found.items()} == {"train": 3, "val": 2}
    train = found["train"]
    features = train.features
    assert isinstance(features["image"], datasets.Image)
    assert isinstance(features["content_image"], datasets.Image)
    assert features["label"] == datasets.ClassLabel(names=["and/or", "cat"])
    row = train[1]
    assert row["id"] == "a/2" and features["label"].int2str(row["label"]) == "cat"
    assert np.array_equal(np.asarray(row["image"]), pixels_of(finished, "a/2"))
    assert row["prompt"] == "text 1" and row["placement"]["fit"] == "crop"
    assert row["boxes"] == [[30, 10, 16, 12], [0, 0, 8, 8]]
    assert row["result_boxes"][0] == {"box": [14, 10, 16, 12], "inside": 1}
    assert np.asarray(row["mask_image"])[15, 20] == 3
    columns = set(train.column_names)
    assert not {"content", "losses", "image_sha256", "status"} & columns
    # The same files by readers that know no images.
    files = str(to / "data" / "*.parquet")
    counted = duckdb.sql(f"SELECT label, count(*) FROM '{files}' GROUP BY ALL ORDER BY label")
    assert counted.fetchall() == [(0, 2), (1, 3)]
    boxes = duckdb.sql(f"SELECT DISTINCT result_boxes[1].box FROM '{files}'").fetchall()
    assert boxes == [([14, 10, 16, 12],)]
    frame = pd.read_parquet(to / "data" / "val-00000.parquet")
    assert frame["id"].tolist() == ["b.3", "c"]
    image = Image.open(io.BytesIO(frame["image"][0]["bytes"]))
    assert np.array_equal(np.asarray(image), pixels_of(finished, "b.3"))


def test_the_card_tells_where_images_come_from(finished: Path, tmp_path: Path) -> None:
    export(str(finished), str(tmp_path), "hf", label_column="label")
    card = (tmp_path / "README.md").read_text()
    job = json.loads((finished / "job.json").read_text())
    assert card.startswith("---\nlicense: other\n") and "path: data/train-*.parquet" in card
    for told in (job["run_id"], job["fingerprint"], "tiny64", "1 without a label, 1 rejected"):
        assert told in card
    for weights in job["weights"]:
        assert weights["sha256"] in card and weights["licence"] in card


def test_coco(finished: Path, tmp_path: Path) -> None:
    made = export(
        str(finished), str(tmp_path), "coco", label_column="categories", split_column="split"
    )
    assert (made.images, made.left_out) == (6, {"rejected": 1})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "annotations_train.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["moon", "sun"]
    (image_id,) = [i for i, image in coco.imgs.items() if image["file_name"] == "a/2.png"]
    image = coco.imgs[image_id]
    assert (image["width"], image["height"], image["prompt"]) == (64, 64, "text 1")
    pixels = np.asarray(Image.open(tmp_path / "images" / image["file_name"]))
    assert np.array_equal(pixels, pixels_of(finished, "a/2"))
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
    assert coco.cats[annotation["category_id"]]["name"] == "sun"
    assert annotation["bbox"] == [14, 10, 16, 12] and annotation["area"] == 192
    assert annotation["keypoints"] == [14, 10, 2, 0, 0, 0] and annotation["num_keypoints"] == 1


# pycocotools hands masks to numpy in a way that numpy 2 speaks of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_of_outlines_and_corners(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(masks="polygons:coco")
    export(str(run), str(tmp_path), "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "annotations.json"))
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    mask = coco.annToMask(annotation)
    assert mask.shape == (64, 64) and mask[15, 20] == 1 and mask.sum() == 192
    assert annotation["bbox"] == [14, 10, 16, 12] and annotation["area"] == 192
    assert coco.cats[annotation["category_id"]]["name"] == "object"


def test_plain_folder_with_original_names(finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    made = export(str(finished), str(to), "folder")
    assert made.images == 6
    names = sorted(p.relative_to(to).as_posix() for p in to.rglob("*.png"))
    assert [name for name in names if not name.startswith("masks/")] == [
        "MY PIC-3.png",
        "b.png",
        "d.png",
        "my pic-2.png",
        "my pic.png",
        "x/é.png",
    ]
    lines = [json.loads(line) for line in (to / "metadata.jsonl").read_text().splitlines()]
    assert lines[1]["file_name"] == "my pic-2.png" and lines[1]["id"] == "a/2"
    loaded = datasets.load_dataset(
        "imagefolder",
        data_dir=str(to),
        cache_dir=str(tmp_path / "cache"),
        split="train",
        drop_labels=True,
    )
    assert loaded.num_rows == 6


def test_further_images_are_items_of_their_own(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run(samples=2, format="jpeg")
    made = export(str(run), str(tmp_path), "imagefolder", label_column="label")
    assert made.images == 10
    names = {Path(p).name for p, _ in ImageFolder(tmp_path).samples}
    assert {"c.jpg", "c@1.jpg"} <= names


def test_what_cannot_be_exported_is_told(finished: Path, tmp_path: Path) -> None:
    run, to = str(finished), str(tmp_path / "to")
    with pytest.raises(SettingsError, match="--label-column not given"):
        export(run, to, "imagefolder")
    with pytest.raises(SettingsError, match="found 'kind'; expected a column.*id, content"):
        export(run, to, "imagefolder", label_column="kind")
    with pytest.raises(SettingsError, match="row 'a/1' has a list of labels"):
        export(run, str(tmp_path / "other"), "imagefolder", label_column="categories")
    with pytest.raises(SettingsError, match="--split-column: found 'my pic.jpg'; expected names"):
        export(run, str(tmp_path / "third"), "hf", split_column="name")
    with pytest.raises(RunFolderError, match="job.json is not there"):
        export(str(tmp_path), to, "hf")
    with pytest.raises(RunFolderError, match="found images.*; expected an empty or new folder"):
        export(run, run, "hf")


def test_a_run_that_is_not_finished_or_damaged(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run()
    image = run / results(run)["c"]["image"]
    data = image.read_bytes()
    image.write_bytes(data + b"x")
    with pytest.raises(JobError, match=r"c.png.: not as it was written|c.png: not as it was"):
        export(str(run), str(tmp_path / "a"), "folder")
    image.write_bytes(data)
    (run.parent / "p4.png").unlink()
    with pytest.raises(JobError, match="content p4.png of row 'c'|of row c.*--pairs needs all"):
        export(str(run), str(tmp_path / "b"), "folder", pairs=True)
    (run / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="not finished .summary.json is not there"):
        export(str(run), str(tmp_path / "c"), "folder")


def test_a_run_without_an_image_is_refused(tmp_path: Path) -> None:
    rows = {"id": ["a", "b"], "content": ["none.png"] * 2, "prompt": ["x"] * 2}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    LocalRun(tmp_path / "rows.parquet", tmp_path / "run").translate()
    told = r"none of its 2 rows is done \(2 rejected\).*`dstc status .*with `--retry rejected`"
    with pytest.raises(RunFolderError, match=told):
        export(str(tmp_path / "run"), str(tmp_path / "to"), "coco")
    assert not (tmp_path / "to").exists()


def test_names() -> None:
    assert safe_name("and/or") == "and%2For" and safe_name(".") == "%2E"
    assert label_of(True) == "True" and label_of([1, None]) == ["1"]


def test_parts_name_no_file_elsewhere(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    part = sorted((run / "results").glob("*"))[0]
    table = pq.read_table(part)
    ids = ["../../evil", *table.column("id").to_pylist()[1:]]
    place = table.schema.get_field_index("id")
    pq.write_table(table.set_column(place, "id", [ids]), part)
    with pytest.raises(JobError, match="id is '../../evil'"):
        export(str(run), str(tmp_path / "to"), "folder")
