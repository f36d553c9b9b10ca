"""`dstc distil` from run folders that are written without Ray, with the shipped networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dstc.cli import app
from dstc.distil import DistilPlan, distil
from dstc.errors import RunFolderError, SettingsError
from dstc.options import Device
from dstc.store.results import Outcome
from dstc_engine.errors import UserError
from dstc_engine.image import encode_png
from dstc_engine.presets import get_preset
from dstc_engine.request import TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.load import load_student
from tests.pilot import FAST, ROWS, dark, drawing, write_pilot


def _plan(run: Path, out: Path, **changes: Any) -> DistilPlan:
    fields: dict[str, Any] = dict(
        run=str(run), out=str(out), device=Device.cpu, steps=3, batch=4, settings=FAST
    )
    return DistilPlan(**(fields | changes))


def test_a_run_becomes_a_student_that_runs(tmp_path: Path) -> None:
    run = write_pilot(tmp_path)
    arguments = ["distil", str(run), "--out", str(tmp_path / "student"), "--steps", "3"]
    arguments += ["--batch", "4", "--device", "cpu"]
    arguments += [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "of its images fail a gate" in " ".join(result.output.split())
    assert "card.md" in result.output

    record = json.loads((tmp_path / "student" / "student.json").read_text())
    assert record["steps"] == 3 and record["student"]["pilot"]["rows"] == ROWS
    assert record["student"]["looks"][0]["style"] == "style/0.png"
    assert list(record["student"]["networks"]) == ["emoji64-vit"]  # no prompt, no CLIP model

    preset = get_preset("tiny64")
    engine = StudentEngine(load_student(tmp_path / "student", preset), 2)
    engine.add(TranslationRequest(id="new", content=drawing(99), seed=0, style=drawing(1000)))
    (made,) = engine.step()
    assert made.status == "done" and made.made_by == "student"

    # The same command again, and a longer one: what is done is not done again.
    again = distil(_plan(run, tmp_path / "student"))
    assert again[0].rows >= 2
    distil(_plan(run, tmp_path / "student", steps=5))
    steps = [line.split(",")[0] for line in (tmp_path / "student/log.csv").read_text().split()]
    assert steps == ["step", "3", "5"]


def test_rows_that_teach_nothing_are_left_out(tmp_path: Path) -> None:
    def end(row: dict[str, Any]) -> Any:
        if row["id"] == "3":
            return Outcome("failed", "fetch_error")
        if row["id"] == "4":
            return Outcome("done", image="images/4.png", flagged="structure")
        return dark(row)

    masks = ["mask.png" if n == 5 else None for n in range(ROWS)]
    run = write_pilot(tmp_path, end, mask=masks)
    distil(_plan(run, tmp_path / "student", steps=1))
    record = json.loads((tmp_path / "student" / "student.json").read_text())
    assert record["student"]["pilot"]["rows"] == ROWS - 3

    with pytest.raises(
        SettingsError, match=r"21 rows to learn from .left out: 1 failed, 1 flagged, 1 masked.; "
    ):
        distil(_plan(run, tmp_path / "other", settings={**FAST, "least_rows": "22"}))
    assert not (tmp_path / "other").exists()


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    run = write_pilot(tmp_path, state="stopped")
    with pytest.raises(RunFolderError, match="it is stopped, 24 of 24 rows have ended"):
        distil(_plan(run, tmp_path / "student"))
    with pytest.raises(RunFolderError, match="no job.json"):
        distil(_plan(tmp_path / "nowhere", tmp_path / "student"))


def test_contents_and_results_that_are_gone_are_named(tmp_path: Path) -> None:
    run = write_pilot(tmp_path)
    (tmp_path / "data/content/7.png").unlink()
    (run / "images/9.png").write_bytes(encode_png(drawing(5)))
    with pytest.raises(
        SettingsError,
        match=r"images of 2 of 24 rows cannot be read: row '7': content .*no such file.*; "
        r"row '9': result images/9.png: other bytes",
    ):
        distil(_plan(run, tmp_path / "student"))
    assert not (tmp_path / "student").exists()


def test_looks_with_too_few_rows_are_named(tmp_path: Path) -> None:
    run = write_pilot(tmp_path, looks=4)
    with pytest.raises(UserError, match="4 of 4 looks have too few rows: style style/0.png"):
        distil(_plan(run, tmp_path / "student"))
    # So many looks that no image need be read to know it.
    many = write_pilot(tmp_path / "many", looks=24)
    for content in (tmp_path / "many/data/content").iterdir():
        content.unlink()
    with pytest.raises(UserError, match="24 of 24 looks .*; and 21 more. Expected 8 or more"):
        distil(_plan(many, tmp_path / "student"))


def test_settings_that_do_not_exist_and_batches_not_to_be_shared_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="unknown training setting 'chanels'; did you mean"):
        distil(_plan(tmp_path, tmp_path, settings={"chanels": "8"}))
    with pytest.raises(UserError, match="--batch 5: 2 workers cannot share it evenly"):
        distil(_plan(tmp_path, tmp_path, batch=5, workers=2))
