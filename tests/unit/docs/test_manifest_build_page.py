"""Every command of docs/manifest-build.md that starts no Ray runs, in the order of the page."""

from __future__ import annotations

import glob
import re
import shlex
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from dstc.cli import main
from tests.unit.dstc.manifests.files import write_images
from tests.unit.dstc.manifests.test_sources import coco_json

PAGE = Path(__file__).parents[3] / "docs" / "manifest-build.md"


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def write_sources(folder: Path) -> None:
    datasets.disable_progress_bars()
    write_images(folder, ["pics/cat/1.png", "pics/dog/2.png"])
    for name in ("cat/1.png", "dog/2.png"):
        (folder / "masks" / name).parent.mkdir(parents=True)
        Image.new("1", (8, 6), 1).save(folder / "masks" / name)
    write_images(folder, ["looks/monet.png", "looks/ink.png", "looks/flat.png"])
    write_images(folder, ["classes/cat/1.png", "classes/dog/1.png"])
    (folder / "rows.csv").write_text("image_path,caption\npics/a.png,a cat\n")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [Image.new("RGB", (8, 6))] * 2, "label": [0, 1]}
    pets = datasets.Dataset.from_dict(rows, features=features)
    pets.save_to_disk(folder / "pets")
    pets.to_parquet(folder / "hf.parquet")
    (folder / "shards").mkdir()
    with webdataset.TarWriter(str(folder / "shards/000.tar")) as tar:
        tar.write({"__key__": "0", "png": Image.new("RGB", (8, 6)), "txt": "a thing"})
    objects = coco_json(folder / "instances.json")
    objects.write_text(
        objects.read_text().replace("a.png", "cat/1.png").replace("b.png", "dog/2.png")
    )
    (folder / "out/results").mkdir(parents=True)
    (folder / "out/job.json").write_text("{}")
    table = pa.table({"id": ["a"], "content": ["b"], "status": ["done"], "image": ["images/a.png"]})
    pq.write_table(table, folder / "out/results/part-00000.parquet")


# pycocotools hands masks to numpy in a way that numpy 2 speaks of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sources(tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for command in commands():
        program, *arguments = shlex.split(command)
        if arguments[0] == "translate":  # tests/integration/test_manifest_build.py
            continue
        spread = [found for text in arguments for found in sorted(glob.glob(text)) or [text]]
        with pytest.raises(SystemExit) as end:
            main(spread)
        assert (program, end.value.code) == ("dstc", 0), command
        ran += 1
    assert ran >= 13
