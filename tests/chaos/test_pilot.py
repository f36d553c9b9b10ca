"""`dstc translate --pilot`, its driver killed in each stage."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np

from dstc.cli import main
from dstc.distil import DistilPlan, distil
from dstc.options import Device
from dstc.status import read_status
from dstc.translate import OK
from dstc_engine.image import decode
from dstc_engine.presets import TINY64, with_fields
from dstc_engine.request import TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.load import load_student
from tests.chaos.runs import assert_whole, parts, wait_for
from tests.pilot import BRIEF, FAST, drawing, write_manifest
from tests.ray_session import image, result_rows

ROWS, PILOT = 30, 12
HOW = {**FAST, "steps": "4", "batch": "4"}


def test_a_driver_that_is_killed_in_each_stage_costs_nothing(tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path / "data", rows=ROWS), tmp_path / "out"

    # One that has imported everything, and is copied for each driver: imports take 8 s of a core.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dstc.cli", "dstc.pilot", "ray.data", "torch"])

    def driver() -> ForkServerProcess:
        options = ["--pilot", str(PILOT), "--rows-per-shard", "4", "--slots", "3", "--actors", "1"]
        options += ["--device", "cpu", "--fallback", "none"]
        options += [part for key, text in HOW.items() for part in ("--distil-set", f"{key}={text}")]
        options += [part for key, text in BRIEF.items() for part in ("--set", f"{key}={text}")]
        process = context.Process(
            target=main, args=(["translate", str(manifest), str(out), *options],)
        )
        process.start()
        return process

    def kill_when(condition: Callable[[], object]) -> None:
        killed = driver()
        wait_for(lambda: condition() or not killed.is_alive())
        killed.kill()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL, "it ended before it was killed"

    # After its last part: what is killed in the midst of a run is `test_drivers.py`'s.
    kill_when(lambda: len(parts(out / "pilot")) == PILOT // 4)
    assert read_status(str(out)).stage == "pilot"
    chosen = (out / "_pilot.parquet").read_bytes()
    kill_when(lambda: read_status(str(out)).stage == "distil")
    assert not (out / "job.json").exists()
    guided = {part: part.stat().st_mtime_ns for part in parts(out / "pilot")}
    kill_when(lambda: parts(out))
    student = (out / "student" / "student.json").read_bytes()
    last = driver()
    last.join(240)
    assert last.exitcode == OK

    assert_whole(out, [str(number) for number in range(ROWS)])
    assert (read_status(str(out)).state, read_status(str(out)).stage) == ("finished", "translate")
    assert json.loads((out / "summary.json").read_text())["made_by"] == {"student": ROWS}
    assert (out / "_pilot.parquet").read_bytes() == chosen
    assert (out / "student" / "student.json").read_bytes() == student
    assert {part: part.stat().st_mtime_ns for part in parts(out / "pilot")} == guided
    assert len({row["id"] for row in result_rows(out / "pilot")}) == PILOT

    # The same weights as without a kill, and the images that these make.
    distil(
        DistilPlan(
            run=str(out / "pilot"),
            out=str(tmp_path / "calm"),
            device=Device.cpu,
            settings=HOW,
            quiet=True,
        )  # fmt: skip
    )
    weights = "student.safetensors"
    assert (out / "student" / weights).read_bytes() == (tmp_path / "calm" / weights).read_bytes()
    preset = with_fields(TINY64, BRIEF)
    engine = StudentEngine(load_student(out / "student", preset), 3)
    style = decode((tmp_path / "data" / "style" / "0.png").read_bytes(), "style")
    made = {row["id"]: image(out, row) for row in result_rows(out)}
    for number in range(0, ROWS, 7):
        engine.add(TranslationRequest(str(number), drawing(number), 0, style=style))
        (translation,) = engine.step()
        assert translation.image is not None
        np.testing.assert_array_equal(made[str(number)], translation.image)
