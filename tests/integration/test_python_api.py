"""The functions of `import dstc` that need Ray."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dstc
from tests.ray_session import RAY_WARNINGS

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]

Rows = Callable[[int], dict[str, list[Any]]]


def test_a_run_prints_nothing_and_tells_how_far_it_is(
    tmp_path: Path,
    good_rows: Rows,
    write_manifest: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    columns = good_rows(6)
    columns["content"][1] = "none.png"
    told: list[dstc.Progress] = []
    run = dstc.translate(
        write_manifest(columns), tmp_path / "run", on_progress=told.append, engine="fake", slots=3
    )
    assert (run.status.done, run.status.rejected) == (5, 1)
    assert told[-1].rows == told[-1].rows_ended == 6
    assert run.table(["id"]).column("id").to_pylist() == columns["id"]
    assert capfd.readouterr() == ("", "")


def test_the_processor_of_the_page_is_a_stage_of_a_pipeline(images: Path, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text()
    (example,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "pics").mkdir()
    for name in ("p0.png", "p1.png", "broken.png"):
        (tmp_path / "pics" / name).write_bytes((images / name).read_bytes())
    names: dict[str, Any] = {}
    # Ray's processes, which read the files, started in another folder.
    example = example.replace("pics/", f"{tmp_path}/pics/")
    exec(example.replace("concurrency=2", "concurrency=1, engine='fake'"), names)
    rows = {Path(row["path"]).name: row for row in names["rows"]}
    assert rows["broken.png"]["reason"] == "unreadable_picture"
    assert [rows[name]["status"] for name in ("p0.png", "p1.png")] == ["done", "done"]
    assert all(rows[name]["image"].startswith(b"\x89PNG") for name in ("p0.png", "p1.png"))
