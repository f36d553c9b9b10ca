"""docs/recipes.md: manifests are built and checked by its commands, and all others are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
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
    (tmp_path / "masks").mkdir()
    write_images(tmp_path, ["pics/a.png", "pics/b.png"])
    for name in ("a.png", "b.png"):
        Image.new("1", (8, 6), 1).save(tmp_path / "masks" / name)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ran = 0
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/recipes.md", "exec", dont_inherit=True), {})
            continue
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
        "masks/a.png",
        "masks/b.png",
    ]
