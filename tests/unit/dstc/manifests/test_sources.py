"""Each form of input, written by the writer of its ecosystem."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import webdataset
from PIL import Image
from pycocotools.coco import COCO

from dstc.errors import ManifestError, SettingsError
from dstc.manifests import optional
from dstc.manifests.build import BuildOptions, build_manifest
from dstc.manifests.build_hint import build_hint, with_hint
from dstc.manifests.find_sources import CocoOptions, find_sources
from dstc.store.run_folder import RunFolder
from dstc_engine.decoding.mask import read_mask
from tests.unit.dstc.manifests.files import build, png, rows_of, write_images


@pytest.fixture
def pets() -> datasets.Dataset:
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "tags": datasets.List(datasets.ClassLabel(names=["in", "out"])),
            "box": datasets.List(datasets.Value("float32"), length=4),
        }
    )
    images = [Image.new("RGB", (8 + n, 6), (n, 2, 3)) for n in range(3)]
    rows = {
        "image": images,
        "label": [0, 1, 1],
        "tags": [[], [0], [0, 1]],
        "box": [[0, 1, 2, 3]] * 3,
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_folder_of_datasets_with_splits(tmp_path: Path, pets: datasets.Dataset) -> None:
    both = datasets.DatasetDict({"train": pets, "test": pets.select([2])})
    both.save_to_disk(tmp_path / "pets")

    built = build(tmp_path / "rows.parquet", tmp_path / "pets", prompts=["a {label}"])

    rows = rows_of(tmp_path / "rows.parquet")
    assert [row["split"] for row in rows] == ["train", "train", "train", "test"]
    assert [row["prompt"] for row in rows] == ["a cat", "a dog", "a dog", "a dog"]
    assert [row["tags"] for row in rows][1:3] == [["in"], ["in", "out"]]
    assert rows[0]["box"] == [0, 1, 2, 3]
    assert (built.images, built.files) == (4, 3)
    with Image.open(tmp_path / rows[1]["content"]) as image:
        assert np.asarray(image).tolist() == np.asarray(pets[1]["image"]).tolist()


def test_a_folder_of_one_set_and_its_parquet_give_the_same(
    tmp_path: Path, pets: datasets.Dataset
) -> None:
    chosen = pets.select([2, 0])  # kept as places in the whole set
    chosen.save_to_disk(tmp_path / "pets")
    chosen.to_parquet(tmp_path / "pets.parquet")

    build(tmp_path / "a.parquet", tmp_path / "pets", prompts=["x"])
    build(tmp_path / "b.parquet", tmp_path / "pets.parquet", prompts=["x"])

    first, second = rows_of(tmp_path / "a.parquet"), rows_of(tmp_path / "b.parquet")
    assert [row["label"] for row in first] == ["dog", "cat"]
    for one, other in zip(first, second, strict=True):
        assert one | {"content": ""} == other | {"content": ""}
        assert one["content"].replace("a.images", "") == other["content"].replace("b.images", "")


def test_tars_of_webdataset(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"in/{shard:03d}.tar")) as tar:
            for number in range(2):
                tar.write(
                    {
                        "__key__": f"{shard}/{number:04d}",
                        "png": Image.new("RGB", (8, 6), (number, shard, 0)),
                        "mask.png": png(number),
                        "cls": number,
                        "txt": f"a thing {number}",
                        "json": {"width": 8, "tags": ["a"], "name": "mine"},
                        "pyd": {"x": 1},
                    }
                )

    built = build(
        tmp_path / "rows.parquet",
        tmp_path / "in",
        columns={"prompt": "txt", "mask": "mask.png", "label": "cls"},
    )

    rows = rows_of(tmp_path / "rows.parquet")
    assert [row["id"] for row in rows] == ["0/0000", "0/0001", "1/0000", "1/0001"]
    assert rows[1]["prompt"] == "a thing 1"
    assert (rows[1]["label"], rows[1]["width"], rows[1]["tags"]) == (1, 8, ["a"])
    assert rows[1]["json_name"] == "mine"
    assert (tmp_path / rows[1]["mask"]).read_bytes() == png(1)
    assert Image.open(tmp_path / rows[3]["content"]).getpixel((0, 0)) == (1, 1, 0)
    assert built.notes == ["4 files .pyd were left out"]


def test_a_broken_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)

    with pytest.raises(ManifestError, match="a.tar: not a readable tar of samples"):
        build(tmp_path / "rows.parquet", tmp_path / "a.tar", prompts=["x"])


def coco_json(path: Path) -> Path:
    document = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 8, "height": 6},
            {"id": 9, "file_name": "b.png", "width": 8, "height": 6},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 3,
                "bbox": [1, 2, 3, 3],
                "area": 9,
                "iscrowd": 0,
                "segmentation": [[1, 2, 4, 2, 4, 5, 1, 5]],
            },
            {
                "id": 2,
                "image_id": 7,
                "category_id": 4,
                "bbox": [0, 0, 2, 6],
                "area": 12,
                "iscrowd": 1,
                "segmentation": {"size": [6, 8], "counts": [0, 12, 36]},
            },
        ],
    }
    path.write_text(json.dumps(document, indent=1))
    return path


# pycocotools hands masks to numpy in a way that numpy 2 speaks of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_keeps_boxes_categories_and_outlines(tmp_path: Path) -> None:
    write_images(tmp_path / "pics", ["a.png", "b.png"])
    path = coco_json(tmp_path / "instances.json")

    sources = find_sources([str(path)], {}, CocoOptions(str(tmp_path / "pics"), ["cat"]))
    built = build_manifest(
        sources, BuildOptions(str(tmp_path / "rows.parquet"), prompts=["{categories} in oil"])
    )

    first, second = rows_of(tmp_path / "rows.parquet")
    assert (first["content"], first["id"], first["image_id"]) == ("pics/a.png", "a", 7)
    assert first["prompt"] == "cat, dog in oil"
    assert (second["prompt"], built.without["prompt"]) == (None, 1)
    assert first["boxes"] == [[1, 2, 3, 3], [0, 0, 2, 6]]
    assert first["categories"] == ["cat", "dog"]
    assert first["polygons"] == [[[1, 2, 4, 2, 4, 5, 1, 5]], None]
    assert second["boxes"] == []
    coco = COCO(str(path))
    wanted = coco.annToMask(coco.anns[1])
    mask = read_mask((tmp_path / first["mask"]).read_bytes()).pixels
    assert (mask == wanted * 255).all() and wanted.sum() == 9
    assert not read_mask((tmp_path / second["mask"]).read_bytes()).pixels.any()
    crowd = coco.annToRLE(coco.anns[2])
    assert first["rles"][1] == {"size": [6, 8], "counts": crowd["counts"].decode()}


def test_coco_says_which_categories_there_are(tmp_path: Path) -> None:
    path = coco_json(tmp_path / "instances.json")
    with pytest.raises(ManifestError, match="images, such as 'a.png', are not in .*--images DIR"):
        find_sources([str(path)])
    assert str(build_hint(str(path))).endswith("--images DIR --prompt TEXT")
    write_images(tmp_path, ["b.png"])

    with pytest.raises(SettingsError, match="--mask-of cow: there is no such category; found cat"):
        find_sources([str(path)], {}, CocoOptions(None, ["cow"]))


def test_a_run_among_the_images_is_none_of_them(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "out/images/3f/a.png", "out/job/b.png"])
    (tmp_path / "out/results").mkdir()
    (tmp_path / "out/results/part-00000.parquet").touch()
    build(tmp_path / "all.parquet", tmp_path, prompts=["x"])
    (tmp_path / "out/job.json").touch()

    build(tmp_path / "rows.parquet", tmp_path, prompts=["x"])

    assert [row["content"] for row in rows_of(tmp_path / "rows.parquet")] == ["a.png"]
    assert len(rows_of(tmp_path / "all.parquet")) == 3


def test_what_is_probably_a_mistake_is_told_so(tmp_path: Path) -> None:
    write_images(tmp_path, ["pics/a.png"])
    with pytest.raises(ManifestError, match="oil: there is no such .*--prompt 'an oil painting'"):
        find_sources([str(tmp_path / "pics"), "oil", "painting"])
    (tmp_path / "latin.csv").write_bytes("image\nK\xe4se.png\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="latin.csv: not readable CSV: .*; expected UTF-8"):
        build(tmp_path / "rows.parquet", tmp_path / "latin.csv", prompts=["x"])


def test_a_workbook_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    book = tmp_path / "my rows.XLSX"
    book.write_bytes(b"PK")
    with pytest.raises(ManifestError, match="found a workbook; .*: save the sheet as CSV .UTF-8."):
        find_sources([str(book)])
    with pytest.raises(ManifestError, match=r"\. Make a manifest of it: save the sheet as CSV"):
        raise with_hint(ManifestError("not Parquet"), str(book))
    assert str(build_hint(str(book))).endswith(
        "then dstc manifest build 'my rows.csv' -o 'my rows.parquet'"
    )


def test_an_earlier_run_is_chained(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = RunFolder(str(tmp_path / "run"))
    (tmp_path / "run" / "results").mkdir(parents=True)
    Path(run.job).write_text("{}")
    table = pa.table(
        {
            "id": ["a", "b"],
            "content": ["/pics/a.png", "/pics/b.png"],
            "prompt": ["an oil", "an oil"],
            "label": ["cat", "dog"],
            "status": ["done", "failed"],
            "image": ["images/ca/a.png", None],
            "seconds": [1.0, 0.0],
        }
    )
    pq.write_table(table, run.part(0))

    built = build(tmp_path / "rows.parquet", tmp_path / "run", prompts=["a {label} at night"])

    assert rows_of(tmp_path / "rows.parquet") == [
        {
            "id": "a",
            "content": "run/images/ca/a.png",
            "prompt": "a cat at night",
            "name": "a",
            "earlier_content": "/pics/a.png",
            "earlier_prompt": "an oil",
            "label": "cat",
        }
    ]
    assert built.notes == ["1 rows that are not done were left out"]


def test_a_reader_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(SettingsError, match=r"pip install 'dstc\[coco\]'"):
        optional.load("no_such_package.coco", "coco", "COCO")
