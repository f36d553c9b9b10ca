from __future__ import annotations

import dataclasses
import math

import pytest

from dstc.worker.gates import is_better, judge, limits_of
from dstc_engine.presets import IMAGENET256_TEXT, TINY64
from dstc_engine.request import StepLosses

LIMITS = {"structure": 0.5, "range": 0.1, "clip": -0.2}


def steps(*losses: dict[str, float]) -> list[StepLosses]:
    return [StepLosses(len(losses) - n, "sample", values) for n, values in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("last", "flagged"),
    [
        ({"structure": 0.5, "range": 0.1, "clip": -0.2}, None),
        ({"structure": 0.6, "range": 0.2}, "range, structure"),
        ({"clip": -0.1}, "clip"),
        ({"clip": -0.9, "style_cls": 99.0}, None),
        ({"structure": math.nan, "range": 0.2}, "range"),
        ({"structure": math.nan}, None),
    ],
)
def test_a_image_is_flagged_with_the_gates_it_fails(
    last: dict[str, float], flagged: str | None
) -> None:
    assert judge(steps({"structure": 9.0, "range": 9.0}, last), LIMITS).flagged == flagged


def test_a_image_without_losses_passes() -> None:
    assert judge([], LIMITS).flagged is None


def test_presets_set_gates_or_none() -> None:
    assert limits_of(IMAGENET256_TEXT) == {}
    preset = dataclasses.replace(IMAGENET256_TEXT, gate_clip=-0.25, gate_range=0.1)
    assert limits_of(preset) == {"clip": -0.25, "range": 0.1}


def test_the_better_of_two_images() -> None:
    def verdict(**last: float):  # type: ignore[no-untyped-def]
        return judge(steps(last), LIMITS)

    passing, near, far = verdict(structure=0.4), verdict(structure=0.6), verdict(range=0.3)
    assert is_better(passing, near) and not is_better(near, passing)
    assert is_better(near, far) and not is_better(far, near), "1.2 times its limit, not 3 times"
    assert not is_better(near, near), "the old image stays"
    # A cosine below zero: the loss is twice as far from its best, -1, as the limit lets it be.
    opposite = verdict(clip=0.6)
    assert is_better(near, opposite) and is_better(opposite, far)
    assert is_better(verdict(structure=0.7, range=0.11), verdict(structure=0.8))


def test_tiny64_has_gates_that_its_losses_can_pass() -> None:
    limits = limits_of(TINY64)
    assert limits and all(TINY64.guides(name) for name in limits)
    passing = {"range": 0.05, "style_cls": 0.1, "clip": -0.65, "structure": 0.004}
    assert judge(steps(passing), limits).flagged is None
    assert judge(steps({**passing, "structure": 0.03}), limits).flagged == "structure"
