"""Hours of a run, from the operations of a row or from measured seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dstc.planning.cost import ASSUMED_TFLOPS, estimate, measured_seconds_per_row
from dstc.store.run_folder import RunFolder
from dstc_engine.operations import cost_of
from dstc_engine.presets import (
    TINY64,
)


def test_hours_follow_from_the_assumed_or_given_rate() -> None:
    cost = cost_of(TINY64)
    assumed = estimate(cost_of(TINY64), 1000, "cuda", "bf16")
    assert assumed.tflops == ASSUMED_TFLOPS["cuda", "bf16"]
    assert assumed.flops_per_row == cost.row
    assert assumed.device_hours == pytest.approx(cost.hours(1000, 1, assumed.tflops))
    assert assumed.hours(4) == pytest.approx(cost.hours(1000, 4, assumed.tflops))
    assert "assumed 160 TFLOP/s a GPU" in assumed.basis
    given = estimate(cost_of(TINY64), 1000, "cuda", "bf16", tflops=320)
    assert given.device_hours == pytest.approx(assumed.device_hours / 2)
    assert "given 320" in given.basis


def test_steps_without_guidance_cost_the_prior_alone() -> None:
    whole = cost_of(TINY64)
    half = cost_of(dataclasses.replace(TINY64, guidance_every=2))
    # First index 10: guided at 10, 8, ..., 0.
    assert (half.steps, half.plain_steps) == (6, 5) and half.step == whole.step
    assert 0 < half.plain_step < whole.step / 3
    assert half.chain == 6 * half.step + 5 * half.plain_step
    assert estimate(half, 1, "cpu").flops_per_row == half.row
    # Without the way back through the prior a step saves as much as the way forth costs.
    spared = cost_of(dataclasses.replace(TINY64, guidance_space="x0"))
    assert whole.step - spared.step == pytest.approx(half.plain_step, rel=0.05)


def test_samples_cost_their_steps_and_share_what_is_encoded() -> None:
    cost = cost_of(TINY64)
    found = estimate(cost_of(TINY64), 10, "cpu", samples=4)
    assert found.flops_per_row == 4 * cost.steps * cost.step + cost.conditions
    assert f"({4 * cost.steps} guided steps)" in found.basis
    assert estimate(cost_of(TINY64), 10, "cpu", samples=1).flops_per_row == cost.row


def test_a_measured_speed_goes_before_an_assumed_one() -> None:
    found = estimate(cost_of(TINY64), 1800, "cpu", measured_seconds_per_row=4.0)
    assert (found.tflops, found.device_hours, found.hours(2)) == (None, 2.0, 1.0)
    assert found.basis == "4 s a row and device, as measured in this run"


def test_overlapping_shards_of_an_actor_count_its_time_once(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    (tmp_path / "stats").mkdir()

    def write(shard: int, worker: str, started: float, ended: float, done: int) -> None:
        record = {"worker": worker, "started": started, "ended": ended, "status": {"done": done}}
        Path(run.stats(shard)).write_text(json.dumps(record))

    assert measured_seconds_per_row(run, [0, 1, 2]) is None
    write(0, "a", 100, 120, 4)
    write(1, "a", 110, 130, 4)
    write(2, "b", 100, 110, 2)
    Path(run.stats(3)).write_text('{"started": 100}')  # at work still
    # 30 seconds of the one actor, 10 of the other, 10 rows.
    assert measured_seconds_per_row(run, range(5)) == pytest.approx(4.0)
