"""`dstc train`, as far as nothing is trained: what a command asks of its loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dstc import train
from dstc.train import Kind, TrainingPlan, training_of
from dstc_engine.errors import UserError
from dstc_engine.training.prior import PriorTraining
from tiny64.clip import CLIPTraining
from tiny64.vit import ViTTraining


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[TrainingPlan]:
    seen: list[TrainingPlan] = []

    def keep(plan: TrainingPlan, address: str | None) -> Path:
        seen.append(plan)
        return Path(plan.out)

    monkeypatch.setattr(train, "train", keep)
    return seen


def test_prior_passes_on_where_to_start_and_how(plans: list[TrainingPlan]) -> None:
    words = "prior --data d --out o --from emoji64-prior --steps 9 --set ema=0.9 --set steps=7"
    assert CliRunner().invoke(train.app, words.split()).exit_code == 0
    (plan,) = plans
    assert (plan.kind, plan.initial) == (Kind.prior, "emoji64-prior")
    assert training_of(plan) == PriorTraining(steps=9, ema=0.9)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("vit", ViTTraining(batch=8, seed=3)), ("clip", CLIPTraining(batch=8, seed=3))],
)
def test_encoder_passes_on_where_to_start_and_how(
    kind: str, expected: object, plans: list[TrainingPlan]
) -> None:
    words = f"encoder --kind {kind} --data d --out o --from runs/a --batch 8 --set seed=3"
    assert CliRunner().invoke(train.app, words.split()).exit_code == 0
    assert plans[0].initial == "runs/a"
    assert training_of(plans[0]) == expected


def test_nothing_given_is_a_run_from_random_weights(plans: list[TrainingPlan]) -> None:
    assert CliRunner().invoke(train.app, ["prior", "--data", "d", "--out", "o"]).exit_code == 0
    assert plans[0].initial is None
    assert training_of(plans[0]) == PriorTraining()


def test_a_setting_that_is_no_pair_is_refused() -> None:
    result = CliRunner().invoke(train.app, "prior --data d --out o --set ema".split())
    assert isinstance(result.exception, UserError)
    assert "--set: found 'ema'; expected KEY=VALUE" in str(result.exception)


def test_wrong_settings_are_refused_before_workers_start(tmp_path: Path) -> None:
    plan = TrainingPlan(
        kind=Kind.vit, data="d", out=str(tmp_path), workers=2, settings={"low_noise": "1"}
    )
    with pytest.raises(UserError, match="unknown training setting 'low_noise'"):
        train.train(plan)
