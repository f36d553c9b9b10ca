"""docs/recipes.md: manifests are built and checked by its commands, and all others are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from dstc.cli import app, main
from tests.unit.docs.test_manifest_build_page import write_sources
from tests.unit.dstc.manifests.files import write_images

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "recipes.md").read_text()


# pycocotools hands masks to numpy in a way that numpy 2 speaks of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_recipes_make_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sources(tmp_path)
    (tmp_path / "hf.parquet").rename(tmp_path / "train-00000-of-00001.parquet")
    (tmp_path / "rows.csv").rename(tmp_path / "table.csv")
    (tmp_path / "looks/ink.png").rename(tmp_path / "look.png")
    write_images(tmp_path, ["pics/a.png", "pics/b.png"])
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ran = 0
    for block in blocks:
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            if program == "dstc" and arguments[0] == "manifest":
                with pytest.raises(SystemExit) as end:
                    main(arguments)
                assert end.value.code == 0, line
                ran += 1
            elif program == "dstc":
                command = get_command(app).get_command(None, arguments[0])  # type: ignore
                command.make_context(arguments[0], arguments[1:])
    assert ran == 9
    assert pq.read_table("masked.parquet").column("mask").to_pylist() == [
        None,
        None,
        "masks/cat/1.png",
        "masks/dog/2.png",
    ]
