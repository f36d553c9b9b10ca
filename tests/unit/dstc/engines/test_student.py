"""The engine of `--student`, as an actor makes it; its student comes from a tiny pilot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dstc.distil import DistilPlan, distil
from dstc.engines.guided import GUIDED
from dstc.engines.student import STUDENT
from dstc.options import Device
from dstc.planning.plan import make_plan
from dstc.planning.settings import Settings, make_settings
from dstc.store.run_folder import RunFolder
from dstc.worker.shard_task import ShardTask
from dstc_engine.errors import WeightsError
from dstc_engine.request import TranslationRequest
from tests.pilot import FAST, drawing, open_gates, write_pilot


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pilot")
    plan = DistilPlan(
        run=str(write_pilot(folder)), out=str(folder / "student"), device=Device.cpu, steps=1,
        batch=4, settings=FAST,
    )  # fmt: skip
    distil(plan)
    open_gates(folder / "student")
    return folder / "student"


def _settings(student: Path, /, **changes: Any) -> Settings:
    data = student.parent / "data"
    fields: dict[str, Any] = dict(
        manifest=str(data / "rows.parquet"), output=str(student.parent / "out"),
        student=str(student), slots=4,
    )  # fmt: skip
    return make_settings(**(fields | changes))


def _refuse(*arguments: object) -> NoReturn:
    raise AssertionError("no row needs guidance")


def test_an_actor_loads_guidance_at_the_first_row_that_needs_it(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(student)
    task = ShardTask(settings, RunFolder(settings.output), "a-run", "f" * 8)
    monkeypatch.setattr("dstc.engines.student.load_networks", _refuse)
    engine = STUDENT.make(task)(settings.slots)
    engine.add(TranslationRequest(id="a", content=drawing(50), seed=0, style=drawing(1000)))
    (made,) = engine.step()
    assert (made.status, made.made_by, made.slots) == ("done", "student", 4)
    engine.add(TranslationRequest(id="b", content=drawing(50), seed=0, style=drawing(7)))
    with pytest.raises(AssertionError, match="no row needs guidance"):
        engine.step()


def test_the_student_and_the_fallback_tell_runs_apart(student: Path) -> None:
    plan = make_plan(_settings(student))
    names = [record.name for record in plan.weights]
    assert names[0] == str(student / "student.json") and "emoji64-prior" in names
    engine = plan.job.identity["engine"]
    assert (engine["kind"], engine["fallback"]) == ("student", "guided")
    looks = plan.job.identity["described"][names[0]]["student"]["looks"]
    assert looks[0]["limits"].keys() >= {"structure", "blur"}

    without = make_plan(_settings(student, fallback="none"))
    assert [record.name for record in without.weights] == names[:1]
    assert without.job.fingerprint != plan.job.fingerprint


def test_a_student_that_does_not_fit_is_refused_before_ray_starts(
    student: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="resample is 3, the student's is 1"):
        make_plan(_settings(student, set={"resample": "3"}))
    with pytest.raises(WeightsError, match="nowhere/student.json: cannot be read"):
        make_plan(_settings(student, student=str(tmp_path / "nowhere")))
    (tmp_path / "student.json").write_text(json.dumps({"architecture": {"image_size": 64}}))
    with pytest.raises(WeightsError, match="kind prior; expected student"):
        make_plan(_settings(student, student=str(tmp_path)))


def test_a_dry_run_tells_the_cost_of_a_student(student: Path) -> None:
    assert STUDENT.cost is not None and GUIDED.cost is not None
    settings = _settings(student)
    cost = STUDENT.cost(settings, False)
    assert cost.steps == 1 and 5 * cost.row < GUIDED.cost(settings, False).step
