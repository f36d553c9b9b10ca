from __future__ import annotations

import json
import resource
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.build import BuildOptions, build_manifest
from dstc.manifests.image_files import find_images
from dstc.manifests.source import Source
from dstc.store.manifest import open_manifest
from dstc.worker.row import check_id
from tests.unit.dstc.manifests.files import build, png, rows_of, write_images


def test_a_folder_of_images_becomes_a_manifest(tmp_path: Path) -> None:
    write_images(tmp_path / "pics", ["1.png", "b 2.png", "deep/3.JPG"])
    (tmp_path / "pics" / "notes.txt").write_text("no image")

    built = build(tmp_path / "rows.parquet", tmp_path / "pics", prompts=["an oil painting"])

    rows = rows_of(tmp_path / "rows.parquet")
    assert [row["content"] for row in rows] == ["pics/1.png", "pics/b 2.png", "pics/deep/3.JPG"]
    assert [row["name"] for row in rows] == ["1.png", "b 2.png", "deep/3.JPG"]
    assert [row["id"].split("-")[0] for row in rows] == ["1", "b", "deep/3"]
    assert {row["prompt"] for row in rows} == {"an oil painting"}
    assert built.notes == ["1 files that are no images by their names were left out"]
    assert open_manifest(str(tmp_path / "rows.parquet"), 16).rows == 3


def test_folders_are_labels_and_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "flat", ["cat/1.png", "dog/1.png"])
    write_images(tmp_path / "split", ["train/cat/1.png", "test/dog/1.png"])

    build(tmp_path / "a.parquet", tmp_path / "flat", prompts=["{label}, watercolor"])
    build(tmp_path / "b.parquet", tmp_path / "split", prompts=["x"])

    first, second = rows_of(tmp_path / "a.parquet"), rows_of(tmp_path / "b.parquet")
    assert [row["prompt"] for row in first] == ["cat, watercolor", "dog, watercolor"]
    assert [(row["split"], row["label"]) for row in second] == [("test", "dog"), ("train", "cat")]


def test_a_pattern_and_single_files_are_sources(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "pics", ["cat/1.png", "dog/1.png", "dog/2.png"])

    build(tmp_path / "a.parquet", f"{folder}/*/1.png", prompts=["x"])
    build(tmp_path / "b.parquet", folder / "cat/1.png", folder / "dog/2.png", prompts=["x"])

    assert [row["id"] for row in rows_of(tmp_path / "a.parquet")] == ["cat/1", "dog/1"]
    assert [row["label"] for row in rows_of(tmp_path / "b.parquet")] == ["cat", "dog"]


def test_a_csv_keeps_its_columns_under_the_names_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.csv").write_text(
        "id;image_path;caption;count;share;code;good\n"
        "007;a.png;a cat;1;1;+49;true\n"
        "008;/data/b.png;;2;1.5;0x;false\n"
    )

    build(
        tmp_path / "rows.parquet",
        tmp_path / "in" / "rows.csv",
        columns={"content": "image_path", "prompt": "caption"},
    )

    rows = rows_of(tmp_path / "rows.parquet")
    assert rows[0] == {
        "id": "007",
        "content": "in/a.png",
        "prompt": "a cat",
        "name": "007",
        "count": 1,
        "share": 1.0,
        "code": "+49",
        "good": True,
    }
    assert (rows[1]["content"], rows[1]["prompt"]) == ("/data/b.png", None)


def test_whole_numbers_are_ids_as_text_and_doubled_ones_get_a_number(tmp_path: Path) -> None:
    lines = [{"n": 7, "content": "a.png", "prompt": "x"}, {"n": 7, "content": "b.png", "more": 1}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))

    built = build(tmp_path / "rows.parquet", tmp_path / "rows.jsonl", columns={"id": "n"})

    rows = rows_of(tmp_path / "rows.parquet")
    assert [(row["id"], row["name"], row["more"]) for row in rows] == [
        ("7", "7", None),
        ("7-2", "7", 1),
    ]
    assert built.repeated_ids == 1


def test_json_of_mixed_numbers_and_an_array_are_read(tmp_path: Path) -> None:
    rows = [{"content": "a.png", "prompt": "x", "size": 1}] * 5000
    rows += [{"content": "b.png", "prompt": "x", "size": 1.5}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text(json.dumps(rows[-2:], indent=1))

    build(tmp_path / "a.parquet", tmp_path / "a.jsonl")
    build(tmp_path / "b.parquet", tmp_path / "b.json")

    assert pq.read_schema(tmp_path / "a.parquet").field("size").type == pa.float64()
    assert [row["size"] for row in rows_of(tmp_path / "b.parquet")] == [1.0, 1.5]


def test_hugging_face_images_become_files_and_classes_their_names(tmp_path: Path) -> None:
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
        "tags": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["in", "out"]}},
    }
    images = [{"bytes": png(1), "path": "x 1.png"}, {"bytes": png(1), "path": None}]
    table = pa.table(
        {"image": images, "label": [1, -1], "tags": [[0, 1], []], "status": ["a", "b"]}
    )
    note = json.dumps({"info": {"features": features}})
    (tmp_path / "in").mkdir()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": note}), tmp_path / "in" / "0.parquet"
    )

    built = build(
        tmp_path / "rows.parquet", tmp_path / "in", prompts=["{label}", "{tags}"], pair="zip"
    )

    rows = rows_of(tmp_path / "rows.parquet")
    assert (built.images, built.files, built.without["prompt"]) == (2, 1, 1)
    assert rows[0]["content"] == rows[1]["content"]
    assert (tmp_path / rows[0]["content"]).read_bytes() == png(1)
    assert rows[0]["content"].startswith("rows.images/")
    assert [row["label"] for row in rows] == ["dog", None]
    assert [row["tags"] for row in rows] == [["in", "out"], []]
    assert (rows[0]["prompt"], rows[1]["prompt"]) == ("dog", None)
    assert rows[0]["name"] == "x 1.png"
    assert (rows[1]["name"], rows[1]["id"]) == ("row-00001", "row-00001")
    assert rows[0]["manifest_status"] == "a"


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    for year in (2024, 2025):
        (tmp_path / f"in/year={year}").mkdir(parents=True)
        table = pa.table({"content": ["/a.png"], "prompt": ["x"]})
        pq.write_table(table, tmp_path / f"in/year={year}/rows.parquet")

    build(tmp_path / "rows.parquet", tmp_path / "in")

    assert [row["year"] for row in rows_of(tmp_path / "rows.parquet")] == [2024, 2025]


def test_pairing_gives_each_content_what_it_says(tmp_path: Path) -> None:
    pics = write_images(tmp_path / "pics", [f"{label}/{n}.png" for label in "ab" for n in "12"])
    looks = write_images(tmp_path / "looks", ["a.png", "b/x.png", "b/y.png"])
    styles = [str(looks / name) for name in ("a.png", "b/x.png", "b/y.png")]

    def pairs(how: str, **options: object) -> list[tuple[str, str]]:
        build(tmp_path / "rows.parquet", pics, styles=styles, pair=how, replaces=True, **options)
        return [(row["id"], row["style"]) for row in rows_of(tmp_path / "rows.parquet")]

    assert [style for _, style in pairs("zip")] == [
        "looks/a.png",
        "looks/b/x.png",
        "looks/b/y.png",
        "looks/a.png",
    ]
    assert len(pairs("product")) == 12
    assert pairs("product")[1] == ("a/1--b-x", "looks/b/x.png")
    drawn = pairs("random:2", seed=1)
    assert len(drawn) == len(set(drawn)) == 8
    assert drawn == pairs("random:2", seed=1) != pairs("random:2", seed=2)
    assert pairs("by:label") == [
        ("a/1--a", "looks/a.png"),
        ("a/2--a", "looks/a.png"),
        ("b/1--b-x", "looks/b/x.png"),
        ("b/1--b-y", "looks/b/y.png"),
        ("b/2--b-x", "looks/b/x.png"),
        ("b/2--b-y", "looks/b/y.png"),
    ]


def test_what_cannot_be_built_says_what_to_do(tmp_path: Path) -> None:
    pics = write_images(tmp_path / "pics", ["a/1.png", "b/1.png"])
    looks = write_images(tmp_path / "looks", ["a.png", "c.png"])
    (tmp_path / "rows.csv").write_text("image_path,caption\na.png,x\n")
    (tmp_path / "pages.csv").write_text("content,caption\na.png,x\n")
    styles = [str(looks / "a.png"), str(looks / "c.png")]
    output = tmp_path / "rows.parquet"

    def refused(*sources: Path, **options: object) -> str:
        with pytest.raises((ManifestError, SettingsError)) as error:
            build(output, *sources, **options)
        assert not output.exists()
        return str(error.value)

    assert "`--column content=image_path`?" in refused(tmp_path / "rows.csv", prompts=["x"])
    assert "`--column prompt=caption`?" in refused(tmp_path / "pages.csv")
    assert "found content, label, name" in refused(pics, prompts=["{labl}"])
    assert "expected --pair" in refused(pics, prompts=["x", "y"])
    assert "expected 1 to 2" in refused(pics, styles=styles, pair="random:3")
    assert "no style is named so" in refused(pics, styles=styles, pair="by:label")
    assert "there is no such column; found" in refused(pics, styles=styles, pair="by:labl")
    assert "no column 'x'" in refused(tmp_path / "rows.csv", columns={"content": "x"})
    assert "no such file or folder" in refused(tmp_path / "nothing")
    assert "name of a column alone" in refused(pics, prompts=["{label.__class__}", "{0!r}"])


def test_a_manifest_that_is_there_is_kept(tmp_path: Path) -> None:
    pics = write_images(tmp_path / "pics", ["1.png"])
    build(tmp_path / "rows.parquet", pics, prompts=["x"])

    with pytest.raises(SettingsError, match="is there already"):
        build(tmp_path / "rows.parquet", pics, prompts=["y"])

    build(tmp_path / "rows.parquet", pics, prompts=["y"], replaces=True)
    assert rows_of(tmp_path / "rows.parquet")[0]["prompt"] == "y"


def test_sources_and_manifest_may_lie_in_other_storage(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("pics/cat/1.png", "pics/dog/2.png", "looks/a.png"):
        memory.pipe_file(f"/team/{name}", png(1))
    memory.pipe_file("/team/in/rows.csv", b"image_path,caption\nx.png,hello\n")
    images = {"image": [{"bytes": png(1), "path": "a.png"}]}
    with memory.open("/team/in/hf.parquet", "wb") as file:
        pq.write_table(pa.table(images), file)

    def written(source: str, **options: object) -> list[dict[str, object]]:
        build("memory://team/rows.parquet", source, replaces=True, **options)
        return pq.read_table(memory.open("/team/rows.parquet")).to_pylist()  # type: ignore

    rows = written("memory://team/pics", styles=find_images("memory://team/looks/a.png"))
    assert [row["content"] for row in rows] == ["pics/cat/1.png", "pics/dog/2.png"]
    assert (rows[0]["style"], rows[0]["label"]) == ("looks/a.png", "cat")
    columns = {"content": "image_path", "prompt": "caption"}
    assert written("memory://team/in/rows.csv", columns=columns)[0]["content"] == "in/x.png"
    (row,) = written("memory://team/in/hf.parquet", prompts=["x"])
    assert memory.cat_file(f"/team/{row['content']}") == png(1)


def test_row_groups_are_what_a_read_task_reads_and_ids_are_safe(tmp_path: Path) -> None:
    pieces = [
        pa.table(
            {
                "content": [f"/d/{n}.png" for n in range(start, start + 1000)],
                "name": [f"name {n % 5000}/ü" for n in range(start, start + 1000)],
            }
        )
        for start in range(0, 10_000, 1000)
    ]
    source = Source("made/up", "a test", "/", lambda: iter(pieces))

    build_manifest([source], BuildOptions(str(tmp_path / "rows.parquet"), prompts=["x"]))

    metadata = pq.read_metadata(tmp_path / "rows.parquet")
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sizes == [4096, 4096, 1808]
    ids = pq.read_table(tmp_path / "rows.parquet").column("id").to_pylist()
    assert len(set(ids)) == 10_000
    assert not any(map(check_id, ids))


def test_memory_does_not_grow_with_the_bytes_of_images(tmp_path: Path) -> None:
    """120 images of 1 MB are 120 MB; what is held at once is a chunk of them."""
    noise = np.random.default_rng(0)

    def read():  # type: ignore[no-untyped-def]
        for _ in range(15):
            images = [{"bytes": noise.bytes(1_000_000), "path": None} for _ in range(8)]
            yield pa.table({"image": images})

    source = Source("made/up", "a test", "/", read)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    built = build_manifest([source], BuildOptions(str(tmp_path / "rows.parquet"), prompts=["x"]))

    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert built.files == 120
    assert grown < 80_000  # kB
