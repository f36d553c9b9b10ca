"""`dstc train` on images that are no emoji: few steps of each training, and what is refused."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from dstc import train as train_module
from dstc.errors import ManifestError, SettingsError
from dstc.manifests import training_split
from dstc.manifests.training_rows import TrainingRows, Wanted
from dstc.manifests.training_split import TrainingImage, parted
from dstc.options import Device
from dstc.train import Kind, TrainingPlan, train
from dstc_engine.errors import UserError
from dstc_engine.training.images import load_images
from dstc_engine.weights.registry import find, verify
from tests import tiny_training as tiny

SIZES: dict[Kind, tuple[Any, Any]] = {
    Kind.prior: (tiny.UNET, tiny.PRIOR),
    Kind.vit: (tiny.VIT, tiny.VIT_TRAINING),
    Kind.clip: (tiny.CLIP, tiny.CLIP_TRAINING),
}


def draw(path: Path, number: int) -> Path:
    """Writes an image of noise that no other number has, each of another shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (20 + number, 30 - number % 7)
    Image.frombytes("RGB", size, random.Random(number).randbytes(3 * size[0] * size[1])).save(path)
    return path


def write_folder(folder: Path, count: int = 24) -> Path:
    """An ImageFolder of two classes and `count` images, and one broken file."""
    for number in range(count):
        draw(folder / ("fern" if number % 2 else "moss") / f"{number}.png", number)
    (folder / "moss" / "broken.png").write_bytes(b"\x89PNG no more")
    return folder


def write_table(folder: Path, **columns: Sequence[Any]) -> Path:
    """A Parquet of 20 images by relative path, with these columns."""
    paths = [draw(folder / "files" / f"{n}.png", n).relative_to(folder) for n in range(20)]
    pq.write_table(pa.table({"photo": list(map(str, paths)), **columns}), folder / "rows.parquet")
    return folder / "rows.parquet"


def plan_of(kind: Kind, data: Path | str, out: Path, **changes: Any) -> TrainingPlan:
    config, how = SIZES[kind]
    plan = TrainingPlan(
        kind=kind, data=str(data), out=str(out), device=Device.cpu, config=config, how=how, steps=2
    )
    return replace(plan, **changes)


@pytest.mark.parametrize("kind", list(Kind))
def test_each_training_takes_a_folder_of_classes(
    kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_folder(tmp_path / "pics"), tmp_path / "run"
    weights = train(plan_of(kind, data, out))
    told = capsys.readouterr().err
    assert "1 images that cannot be read were left out: moss/broken.png: " in told
    with (out / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "2" and float(row["loss"]) > 0
    assert any(value for name, value in row.items() if name.startswith("val_"))
    # What `--set prior=`, `dino=` and `clips=` take.
    assert find(str(out / f"{kind}.json"), kind).kind == kind
    assert verify(str(out / f"{kind}.json")) == weights

    # It goes on with the images that it began with, whatever has become of the folder.
    before = (out / "images.parquet").read_bytes()
    draw(data / "fern" / "new.png", 99)
    train(plan_of(kind, data, out, steps=3))
    assert (out / "images.parquet").read_bytes() == before
    assert json.loads((out / f"{kind}.json").read_text())["steps"] == 3
    with pytest.raises(SettingsError, match="holds the images of another --data, --column or"):
        train(plan_of(kind, data, out, fit="pad"))


def test_clip_learns_captions_of_a_table_and_the_vit_its_looks_and_pairs(tmp_path: Path) -> None:
    captions = [f"thing {n}" for n in range(19)] + [" "]
    pairs = [f"{n // 2}" for n in range(18)] + [None, None]
    looks = ["ink", "paint"] * 10
    data = write_table(tmp_path, alt_text=captions, medium=looks, pair=pairs)
    columns = {"content": "photo", "caption": "alt_text", "look": "medium"}
    train(plan_of(Kind.clip, data, tmp_path / "clip", columns=columns))
    images = load_images(tmp_path / "clip" / "images.parquet", "train")
    val = load_images(tmp_path / "clip" / "images.parquet", "val")
    assert len(images) + len(val) == 19
    assert images.names == images.subjects and set(images.names) < set(captions)
    train(plan_of(Kind.vit, data, tmp_path / "vit", columns=columns))
    both = [load_images(tmp_path / "vit" / "images.parquet", s) for s in ("train", "val")]
    assert sum(map(len, both)) == 20
    assert {p for p in both[0].pairs if p}.isdisjoint(p for p in both[1].pairs if p)
    assert set(both[0].styles) == {"ink", "paint"}


def test_one_prepared_set_serves_other_trainings_but_not_clip_without_captions(
    tmp_path: Path,
) -> None:
    data = write_table(tmp_path)
    train(plan_of(Kind.vit, data, tmp_path / "a", columns={"content": "photo"}))
    images = tmp_path / "a" / "images.parquet"
    train(plan_of(Kind.vit, images, tmp_path / "b"))
    assert not (tmp_path / "b" / "images.parquet").exists()
    with pytest.raises(UserError, match="found images without a caption; expected one for each"):
        train(plan_of(Kind.clip, images, tmp_path / "c"))


@pytest.mark.parametrize("is_struct", [False, True])
def test_images_inside_a_table_and_the_first_of_several_captions(
    is_struct: bool, tmp_path: Path
) -> None:
    files = [draw(tmp_path / f"{n}.png", n).read_bytes() for n in range(20)]
    cells = [{"bytes": data, "path": None} for data in files] if is_struct else files
    captions = [[f"thing {n}", "else"] for n in range(20)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if is_struct else pa.binary()
    table = pa.table({"content": pa.array(cells, kind), "captions": captions})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = TrainingRows(Wanted(str(tmp_path / "rows.parquet"), size=16, captions=True))
    images = list(rows.read())
    assert [image.caption for image in images] == [f"thing {n}" for n in range(20)]
    assert images[0].name == "row 0" and rows.notes() == ["captions of the column 'captions'"]


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({}, Kind.prior, r"content is missing; .*\(found photo, label\)"),
        ({"content": "pics"}, Kind.prior, "there is no column 'pics'; found photo, label"),
        ({"image": "photo"}, Kind.prior, "--column image=photo: no training reads 'image'"),
        (
            {"content": "photo"},
            Kind.clip,
            "CLIP learns from captions, and there are none; found label without words",
        ),
    ],
)
def test_columns_that_do_not_do_are_said(
    columns: dict[str, str], kind: Kind, message: str, tmp_path: Path
) -> None:
    data = write_table(tmp_path, label=list(range(20)))
    with pytest.raises(UserError, match=message):
        train(plan_of(kind, data, tmp_path / "run", columns=columns))
    assert not (tmp_path / "run").exists()


def test_too_few_images_and_too_many_broken_ones_are_said(tmp_path: Path) -> None:
    few = write_folder(tmp_path / "few", 9)
    with pytest.raises(ManifestError, match=r"found \d different images .* and 1 for .* 16"):
        train(plan_of(Kind.prior, few, tmp_path / "run"))
    (few / "fern" / "other.png").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"2 of 11 images cannot be read.*fern/other.png"):
        train(plan_of(Kind.prior, few, tmp_path / "run"))


def made(count: int, split: str = "") -> list[TrainingImage]:
    return [TrainingImage(b"", f"{split}{n}", str(n), split=split) for n in range(count)]


def test_a_tenth_validates_by_content_and_more_images_move_none_of_it() -> None:
    images, notes = parted(made(2000))
    val = {image.digest for image in images if image.split == "val"}
    assert not notes and 150 < len(val) < 250
    more, _ = parted(made(3000)[::-1])
    assert val <= {image.digest for image in more if image.split == "val"}
    assert [image.split for image in parted(made(2))[0]].count("val") == 1


def test_a_split_of_the_data_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_split, "MOST_VAL", 3)
    images, notes = parted([*made(9, "Train"), *made(5, "validation"), *made(4, "test")])
    assert [image.split for image in images] == ["train"] * 9 + ["val"] * 3
    assert notes == [
        "4 images of the test split were left out",
        "2 images of the validation split were left out",
    ]


def test_the_command_passes_on_columns_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingPlan] = []

    def keep(plan: TrainingPlan, address: str | None) -> Path:
        seen.append(plan)
        return Path(plan.out)

    monkeypatch.setattr(train_module, "train", keep)
    words = "prior --data d --out o --column content=photo --column look=medium --fit pad"
    assert CliRunner().invoke(train_module.app, words.split()).exit_code == 0
    assert seen[0].columns == {"content": "photo", "look": "medium"} and seen[0].fit == "pad"


def test_all_workers_read_the_images_that_lie_in_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainingPlan] = []
    monkeypatch.setattr(train_module, "fit_on_ray", lambda plan, *others: seen.append(plan))
    data, storage = write_folder(tmp_path / "pics"), tmp_path / "shared"
    plan = plan_of(Kind.prior, data, tmp_path / "run", workers=2, storage=str(storage))
    with pytest.raises(UserError, match="--batch 5: 2 workers cannot share it evenly"):
        train(replace(plan, batch=5))
    assert not storage.exists()
    train(plan)
    assert seen[0].data == str(storage / "images.parquet")
    assert load_images(seen[0].data, "val").is_own
