"""Operations of a student, counted without weights."""

from __future__ import annotations

import dataclasses

from dstc_engine.operations import cost_of
from dstc_engine.presets import TINY64
from dstc_engine.student.cost import config_of, cost_of_student, training_flops
from dstc_engine.student.training import StudentTraining

HOW = StudentTraining(steps=100, batch=4, feature_every=4, feature_rows=8)


def test_a_students_row_costs_less_than_a_fifth_of_a_guided_step() -> None:
    config = config_of(TINY64, HOW, looks=2, with_prompt=False)
    cost = cost_of_student(TINY64, config, with_prompt=False)
    guided = cost_of(TINY64, with_prompt=False)
    assert 5 < guided.step / cost.row < 40
    assert cost.steps == 1 and "fall back" in cost.unit and guided.unit == "guided steps"
    wider = dataclasses.replace(config, channels=32)
    assert cost_of_student(TINY64, wider, with_prompt=False).row > cost.row


def test_a_training_costs_its_steps_and_what_the_networks_are_asked() -> None:
    whole = training_flops(TINY64, HOW, 2, with_prompt=False)
    double = dataclasses.replace(HOW, steps=200)
    assert training_flops(TINY64, double, 2, with_prompt=False) == 2 * whole
    names = ("keys", "cls", "structure", "contrast", "look")
    plain = dataclasses.replace(HOW, **{f"weight_{name}": 0.0 for name in names})
    pixels = training_flops(TINY64, plain, 2, with_prompt=False)
    # Of a batch of 4, all images are seen by the networks every 4th step.
    assert (
        whole - pixels
        == training_flops(TINY64, dataclasses.replace(HOW, feature_every=1), 2, with_prompt=False)
        // 4
        - pixels // 4
    )
