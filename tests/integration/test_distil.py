"""`dstc distil` by two workers of Ray Train on CPUs, from a run folder written without Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dstc.distil import DistilPlan, distil
from dstc.options import Device
from dstc_engine.presets import get_preset
from dstc_engine.student.load import load_student
from tests.pilot import FAST, write_pilot
from tests.ray_session import RAY_WARNINGS

pytestmark = RAY_WARNINGS


@pytest.mark.usefixtures("ray_session")
def test_two_workers_distil_a_student_and_go_on_from_their_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "student"
    plan = DistilPlan(
        run=str(write_pilot(tmp_path)), out=str(out), steps=2, batch=4, workers=2,
        device=Device.cpu, settings=FAST,
    )  # fmt: skip
    distil(plan)
    assert json.loads((out / "student.json").read_text())["steps"] == 2
    assert load_student(out, get_preset("tiny64")).record.looks[0].limits

    distil(replace(plan, steps=4))
    assert (out / "log.csv").read_text().splitlines()[-1].startswith("4,")
    assert (out / "card.md").is_file()
