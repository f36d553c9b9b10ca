from __future__ import annotations

from pathlib import Path

import pytest

from dstc.cli import main
from tests.ray_session import RAY_WARNINGS, result_rows
from tests.unit.dstc.manifests.files import write_images

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_folder_is_built_checked_and_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, ["pics/cat/1.png", "pics/dog/ä 2.png", "looks/a.png"])
    monkeypatch.chdir(tmp_path)

    build = ["manifest", "build", "pics/", "-o", "rows.parquet", "--style", "looks/a.png"]
    assert run(*build, "--prompt", "{label}, watercolor") == 0
    assert run("manifest", "check", "rows.parquet") == 0
    assert run("translate", "rows.parquet", "out", "--engine", "fake", "--actors", "1") == 0

    rows = result_rows(tmp_path / "out")
    assert [(row["status"], row["label"], row["prompt"]) for row in rows] == [
        ("done", "cat", "cat, watercolor"),
        ("done", "dog", "dog, watercolor"),
    ]
    assert [row["name"] for row in rows] == ["cat/1.png", "dog/ä 2.png"]

    # An image of it is the content of another run.
    assert run("manifest", "build", "out", "-o", "again.parquet", "--prompt", "at night") == 0
    assert run("manifest", "check", "again.parquet", "--images", "all") == 0
