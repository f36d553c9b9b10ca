"""Labels that are carried over, and where the content lies, through an actor without Ray."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dstc.errors import RunFolderError, SettingsError
from dstc.planning.label_columns import check_label_columns, label_column
from dstc.planning.settings import make_settings
from dstc.store.faults import CHANGED_IMAGE
from dstc.store.images_note import write_images_note
from dstc.store.results import OUTCOME_SCHEMA
from dstc.verify import verify
from dstc.worker.labels import carry, read_labels
from dstc.worker.row import Rejected
from dstc_engine.decoding.frame import Frame
from dstc_engine.encoding import read_texts
from dstc_engine.placement import Placement
from tests.hostile.local_run import LocalRun
from tests.unit.dstc.one_actor import Job

BOXES = [[30, 10, 16, 12], [58, 30, 18, 20], [0, 0, 8, 40], [48, 40, 8, 6]]
"""COCO: x, y, width, height; in a content of 96 x 64, whose square shows x 16 .. 80."""


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """White rectangles on black where `BOXES` say, in a JPEG that EXIF turns upright."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    for x, y, width, height in BOXES:
        pixels[y : y + height, x : x + width] = 255
    stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)  # 6 turns it clockwise
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "drawn.png"
    stored.save(path, exif=exif)
    return path


def manifest_of(tmp_path: Path, write_manifest: Any, drawn: Path, **columns: Any) -> Path:
    path: Path = write_manifest(
        {"id": ["drawn"], "content": [str(drawn)], "prompt": ["negative"], **columns}
    )
    return path


@pytest.fixture
def translate(tmp_path: Path) -> Iterator[Any]:
    jobs: list[Job] = []

    def run(manifest: Path, name: str = "run", **options: Any) -> tuple[Job, dict[str, Any]]:
        jobs.append(Job(manifest, tmp_path / name, 4, **options))
        return jobs[-1], jobs[-1].translate().to_pylist()[0]

    yield run
    for job in jobs:
        job.actor.close()


def detected(path: Path) -> list[list[float]]:
    """Corners of the dark areas on white that hang together."""
    dark = np.asarray(Image.open(path).convert("L")) < 128
    dark[0, 0] = False  # the fake engine's mark
    todo = {(int(x), int(y)) for y, x in np.argwhere(dark)}
    boxes = []
    while todo:
        found, border = set[tuple[int, int]](), {todo.pop()}
        while border:
            found |= border
            around = {
                (x + i, y + j) for x, y in border for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))
            }
            border = around & todo
            todo -= border
        xs, ys = zip(*found, strict=True)
        boxes.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    return sorted(boxes)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("restore_size", [False, True])
@pytest.mark.parametrize("form", ["coco", "pascal"])
def test_a_detector_finds_the_boxes_where_the_carried_ones_lie(
    tmp_path: Path,
    write_manifest: Any,
    drawn: Path,
    translate: Any,
    fit: str,
    restore_size: bool,
    form: str,
) -> None:
    given = BOXES if form == "coco" else [[x, y, x + w, y + h] for x, y, w, h in BOXES]
    manifest = manifest_of(tmp_path, write_manifest, drawn, boxes=[given])
    job, row = translate(
        manifest, boxes=f"boxes:{form}", set={"fit": fit}, restore_size=restore_size
    )
    assert row["status"] == "done" and row["boxes"] == given
    carried = [entry["box"] for entry in row["result_boxes"]]
    if form == "coco":
        carried = [box and [box[0], box[1], box[0] + box[2], box[1] + box[3]] for box in carried]
    shares = [entry["inside"] for entry in row["result_boxes"]]
    if fit == "crop" and not restore_size:
        assert shares == [1, 1, 0, 1] and carried[2] is None
    else:
        assert shares == [1, 1, 1, 1]
    if fit == "crop" and restore_size:
        # The border is the content's own: white on black, which no threshold for dark finds.
        content = np.asarray(Image.open(job.run.uri + "/" + row["image"]))
        assert (content[:40, :8] > 250).all()
        carried.pop(2)
        areas = detected(Path(job.run.uri) / row["image"])
        seen = [box for box in areas if box[0] > 0 and box[2] < 96]
    else:
        seen = detected(Path(job.run.uri) / row["image"])
    found = sorted(box for box in carried if box)
    assert len(seen) == len(found)
    # A pixel of a box may be shared with its surroundings.
    np.testing.assert_allclose(seen, found, atol=1)


def test_every_row_tells_where_its_content_lies(
    tmp_path: Path, write_manifest: Any, drawn: Path, translate: Any
) -> None:
    job, row = translate(manifest_of(tmp_path, write_manifest, drawn))
    placement = Placement(**row["placement"])
    assert placement == Placement.of(Frame(64, 96, 6), 64, "crop")
    assert placement.points_to_result([[16, 0]]).tolist() == [[0, 0]]
    assert placement.upright([[0, 96]]).tolist() == [[0, 0]], "the lower left corner as stored"
    assert row["result_boxes"] is None and row["result_mask"] is None
    table = pa.Table.from_pylist([row])
    assert table.schema.names[-6:] == OUTCOME_SCHEMA.names[-6:]


def test_points_polygons_and_labels_in_an_image(
    tmp_path: Path, write_manifest: Any, drawn: Path, translate: Any
) -> None:
    labels = np.zeros((64, 96), np.uint8)
    labels[10:22, 30:46] = 7
    labels[:40, :8] = 9
    image = Image.fromarray(labels)
    image.putpalette([n for n in range(256) for _ in range(3)])
    image.save(tmp_path / "labels.png")
    polygons = [[[30, 10, 46, 10, 46, 22, 30, 22]], [[0, 0, 32, 0, 32, 40, 0, 40]]]
    manifest = manifest_of(
        tmp_path,
        write_manifest,
        drawn,
        points=[[[30, 10, 2, 0, 0, 1, 5, 5, 0]]],
        objects=[[{"segmentation": polygons[0]}, {"segmentation": polygons[1]}]],
        labels=["labels.png"],
    )
    job, row = translate(manifest, keypoints="points", masks="labels")
    assert row["result_keypoints"] == [{"keypoints": [14, 10, 2, 0, 0, 0, 0, 0, 0], "outside": 1}]
    placed = Image.open(Path(job.run.uri) / row["result_mask"])
    assert placed.mode == "P" and placed.getpalette()[21:24] == [7, 7, 7]
    assert np.array_equal(np.asarray(placed), labels[:, 16:80])
    _, row = translate(manifest, "other", masks="objects.segmentation:coco", keypoints="points")
    first, second = row["result_masks"]
    assert first["inside"] == 1 and second["inside"] == 0.5
    assert first["polygons"] == [[14, 10, 30, 10, 30, 22, 14, 22]]
    assert sorted(second["polygons"][0]) == sorted([0, 0, 16, 0, 16, 40, 0, 40])


def test_forms_of_cells() -> None:
    placement = Placement.of(Frame(20, 10), 10, "crop")

    def carried(option: str, text: str, cell: Any) -> dict[str, Any]:
        columns = [label_column(option, text)]
        return carry(read_labels(columns, {"a": cell}, "row"), placement)

    one = [{"box": [1, 2, 3, 4], "inside": 1}]
    assert carried("boxes", "a", [6, 2, 3, 4]) == {"result_boxes": one}
    assert carried("boxes", "a", "[[6, 2, 3, 4]]") == {"result_boxes": one}
    assert carried("boxes", "a.b.c", {"b": [{"c": [6, 2, 3, 4]}]}) == {"result_boxes": one}
    none = {"box": None, "inside": None}
    assert carried("boxes", "a", [None, [6, 2, 3, 4]]) == {"result_boxes": [none, *one]}
    assert carried("boxes", "a", []) == {"result_boxes": []}
    assert carried("boxes", "a", None) == {}
    points = [{"keypoints": [1, 2, 2, 0, 0, 0], "outside": 1}]
    assert carried("keypoints", "a:points", [[6, 2], [0, 0]]) == {"result_keypoints": points}
    crowd = {"counts": [3, 4], "size": [10, 20]}
    assert carried("masks", "a:coco", [crowd]) == {
        "result_masks": [{"polygons": None, "inside": None}]
    }


@pytest.mark.parametrize(
    ("option", "text", "cell", "message"),
    [
        ("boxes", "a", [[1, 2, 3]], "found 3 numbers.*x, y, width, height"),
        ("boxes", "a", [[1, 2, -3, 4]], "ends before it begins"),
        ("boxes", "a:pascal", [[5, 5, 3, 9]], "ends before it begins.*x_min"),
        ("boxes", "a", [[1, 2, float("nan"), 4]], "nan"),
        ("boxes", "a", 7, "found int"),
        ("boxes", "a.b", [7], "no field 'b'"),
        ("boxes", "a", "[not json", "expected lists"),
        ("keypoints", "a", [[1, 2]], "found 2 numbers"),
        ("masks", "a:coco", [[[1, 2, 3]]], "odd number"),
        ("masks", "a", [1], "found list.*URI"),
    ],
)
def test_labels_that_are_none_are_rejected(option: str, text: str, cell: Any, message: str) -> None:
    with pytest.raises(Rejected, match=f"^row: column .*{message}") as caught:
        read_labels([label_column(option, text)], {"a": cell}, "row")
    assert caught.value.reason == "bad_labels"


def test_options_that_name_no_column() -> None:
    with pytest.raises(SettingsError, match="--boxes: found 'a:voc'; expected COLUMN or"):
        label_column("boxes", "a:voc")
    schema = pa.schema([("id", pa.string()), ("objects", pa.string())])
    check_label_columns([label_column("boxes", "objects.bbox")], schema)
    with pytest.raises(SettingsError, match="no column of labels 'bbox'; expected one of objects"):
        check_label_columns([label_column("boxes", "bbox")], schema)
    schema = pa.schema([("polygons", pa.list_(pa.float64())), ("width", pa.int32())])
    check_label_columns([label_column("masks", "polygons:coco")], schema)
    with pytest.raises(SettingsError, match="holds list.*; expected .* --masks polygons:coco"):
        check_label_columns([label_column("masks", "polygons")], schema)
    with pytest.raises(
        SettingsError, match="--boxes width: the column holds int32; expected a column of l"
    ):
        check_label_columns([label_column("boxes", "width")], schema)
    with pytest.raises(SettingsError, match="--quality: found 90 for PNG"):
        make_settings(manifest="m", output="o", quality=90)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_other_formats_keep_what_was_promised(
    tmp_path: Path, write_manifest: Any, drawn: Path, translate: Any, kind: str
) -> None:
    manifest = manifest_of(tmp_path, write_manifest, drawn)
    job, row = translate(manifest, format=kind)
    data = (Path(job.run.uri) / row["image"]).read_bytes()
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == kind.upper()
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert read_texts(data) == {
        "id": "drawn",
        "seed": str(row["seed"]),
        "preset": "tiny64",
        "fingerprint": "ffff",
    }
    _, png = translate(manifest, "png")
    exact = np.asarray(Image.open(tmp_path / "png" / png["image"])).astype(int)
    assert np.abs(pixels - exact).mean() < 4
    other, again = translate(manifest, "again", format=kind)
    assert (Path(other.run.uri) / again["image"]).read_bytes() == data
    _, small = translate(manifest, "small", format=kind, quality=10)
    assert (tmp_path / "small" / small["image"]).stat().st_size < len(data)


def test_a_run_in_another_format_is_verified_continued_and_told_apart(
    tmp_path: Path, write_manifest: Any, drawn: Path
) -> None:
    Image.fromarray(np.full((64, 96), 3, np.uint8)).save(tmp_path / "labels.png")
    rows = {
        "id": ["a", "b"],
        "content": [str(drawn)] * 2,
        "prompt": ["x", "y"],
        "boxes": [BOXES, []],
        "labels": ["labels.png", None],
        "image": [1, 2],
    }
    options = {"format": "jpeg", "quality": 80, "boxes": "boxes", "masks": "labels"}
    run = LocalRun(write_manifest(rows), tmp_path / "run")
    assert run.translate(**options).done == 2
    write_images_note(run.folder)
    found = run.rows()
    assert [row["manifest_image"] for row in found] == ["1", "2"]
    assert found[0]["image"].endswith(".jpg'") and found[0]["result_mask"].endswith(".png'")
    note = (run.output / "images" / "README.md").read_text()
    assert "dstc export RUN TO" in note
    assert verify(str(run.output)).is_whole
    (run.output / eval(found[0]["result_mask"])).write_bytes(b"another")
    assert [fault.kind for fault in verify(str(run.output)).faults] == [CHANGED_IMAGE]
    run.seen.clear()
    verify(str(run.output), repairs=True)
    assert run.translate(**options).done == 2
    assert run.seen == ["a"] and run.rows() == found
    assert verify(str(run.output)).is_whole
    with pytest.raises(RunFolderError, match=r"output.quality: there 80, here 70"):
        run.plan(**{**options, "quality": 70})
    with pytest.raises(RunFolderError, match=r"output.boxes: there \"boxes\", here nothing"):
        run.plan(**{**options, "boxes": None})


def test_a_run_begun_before_there_were_placements_goes_on(
    tmp_path: Path, write_manifest: Any, drawn: Path
) -> None:
    ids = [f"r{number}" for number in range(8)]
    rows = {"id": ids, "content": [str(drawn)] * 8, "prompt": ["x"] * 8}
    run = LocalRun(write_manifest(rows), tmp_path / "run")
    run.translate()
    found = run.rows()
    columns = OUTCOME_SCHEMA.names[OUTCOME_SCHEMA.names.index("placement") :]
    for shard in (0, 1):
        part = pq.read_table(run.part(shard))
        pq.write_table(part.drop_columns(columns), run.part(shard))
    run.part(1).unlink()
    run.seen.clear()
    assert run.translate().done == 8
    assert sorted(run.seen) == ids[4:]
    assert verify(str(run.output)).is_whole
    assert "placement" not in pq.read_schema(run.part(0)).names
    again = pa.concat_tables(
        [pq.read_table(run.part(shard)) for shard in (0, 1)], promote_options="default"
    )
    assert again.column("placement").null_count == 4
    # Taken apart by a repair, its rows are kept as they are.
    image = run.output / again.column("image")[0].as_py()
    image.unlink()
    verify(str(run.output), repairs=True)
    run.seen.clear()
    assert run.translate().done == 8
    assert run.seen == ids[:1]
    kept = [row["placement"] for row in run.rows()]
    assert kept[0] == found[0]["placement"] and kept[1] == "None"


def test_labels_that_are_none_end_their_row_alone(
    tmp_path: Path, write_manifest: Any, drawn: Path, translate: Any
) -> None:
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "small.png")
    manifest = write_manifest(
        {
            "id": ["a", "b", "c"],
            "content": [str(drawn)] * 3,
            "prompt": ["x"] * 3,
            "boxes": [[[1, 2]], [], []],
            "labels": [None, "none.png", "small.png"],
        }
    )
    job, _ = translate(manifest, boxes="boxes", masks="labels")
    rows = job.translate().to_pylist()
    assert [row["reason"] for row in rows] == ["bad_labels", "missing_picture", "bad_labels"]
    assert rows[0]["error"].startswith("manifest row 0 ('a'): column 'boxes' holds")
    assert "5 x 5 pixels; expected the content's 64 x 96" not in rows[2]["error"]
    assert "5 x 5 pixels; expected the content's 96 x 64" in rows[2]["error"]


def test_restored_results_keep_what_was_cropped_and_masked(
    tmp_path: Path, write_manifest: Any, translate: Any
) -> None:
    rng = np.random.default_rng(0)
    content = rng.integers(0, 100, (33, 50, 3), dtype=np.uint8)
    Image.fromarray(content).save(tmp_path / "content.png")
    mask = np.zeros((33, 50), np.uint8)
    mask[:, 20:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    rows = {"id": ["a"], "content": ["content.png"], "prompt": ["x"]}
    job, row = translate(write_manifest(rows), restore_size=True)
    placement = Placement(**row["placement"])
    assert (placement.fit, placement.result_width, placement.result_height) == ("whole", 50, 33)
    assert placement.points_to_result([[7, 9]]).tolist() == [[7, 9]]
    image = np.asarray(Image.open(Path(job.run.uri) / row["image"]))
    assert image.shape == content.shape
    # The square shows x 8.5 .. 41.5; the pixels that it covers by half stay the content's.
    assert np.array_equal(image[:, :9], content[:, :9])
    assert np.array_equal(image[:, 41:], content[:, 41:])
    inside = image[2:, 9:41].astype(int)
    np.testing.assert_allclose(inside, 255 - content[2:, 9:41].astype(int), atol=60)
    masked = {**rows, "mask": ["mask.png"]}
    job, row = translate(write_manifest(masked, "masked.parquet"), "masked", restore_size=True)
    image = np.asarray(Image.open(Path(job.run.uri) / row["image"]))
    assert np.array_equal(image[:, :20], content[:, :20])
    assert (image[2:, 20:30] > 120).all()
