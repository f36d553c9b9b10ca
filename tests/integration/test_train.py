"""`dstc train` for real: one worker without Ray, two workers of Ray Train on CPUs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dstc.options import Device
from dstc.train import Kind, TrainingPlan, app, train
from dstc_engine.errors import UserError
from tests.drawings import write_drawings
from tests.ray_session import RAY_WARNINGS
from tests.tiny_training import SIZE, VIT, VIT_TRAINING

pytestmark = RAY_WARNINGS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_drawings(tmp_path_factory.mktemp("data") / "emoji.parquet", size=SIZE))


def _plan(data: str, out: Path, **changes: object) -> TrainingPlan:
    plan = TrainingPlan(
        kind=Kind.vit, data=data, out=str(out), device=Device.cpu, config=VIT, how=VIT_TRAINING
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_session")
def test_two_workers_train_from_given_weights_and_go_on_from_their_checkpoint(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(_plan(data, tmp_path / "begun", steps=2))
    monkeypatch.chdir(tmp_path)  # workers run elsewhere, and must find it all the same
    plan = _plan(data, tmp_path / "run", workers=2, initial="begun")
    weights = train(plan)
    record = json.loads((tmp_path / "run" / "vit.json").read_text())
    assert record["steps"] == 4
    assert record["initial"]["name"] == str(tmp_path / "begun")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(weights).values())

    # The same plan, made longer: the steps that are done are not done again.
    assert train(replace(plan, steps=6)) == weights
    with (tmp_path / "run" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "6"]
    longer = json.loads((tmp_path / "run" / "vit.json").read_text())
    assert (longer["steps"], longer["initial"]) == (6, record["initial"])


def test_one_worker_trains_here_without_ray(data: str, tmp_path: Path) -> None:
    weights = train(_plan(data, tmp_path / "run", steps=2))
    assert weights == tmp_path / "run" / "vit.safetensors"
    assert json.loads(weights.with_suffix(".json").read_text())["training"]["steps"] == 2


def test_missing_data_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data .*nowhere.parquet: cannot be read"):
        train(_plan(str(tmp_path / "nowhere.parquet"), tmp_path / "run", workers=2))
    result = CliRunner().invoke(
        app, ["encoder", "--kind", "vit", "--data", "nowhere.parquet", "--out", str(tmp_path)]
    )
    assert isinstance(result.exception, UserError)


def test_a_batch_that_workers_cannot_share_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--batch 5: 2 workers cannot share it evenly"):
        train(_plan(data, tmp_path / "run", workers=2, batch=5))
