"""A row's moves, told by made-up losses; no tensor, no network."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.losses import LOSSES
from dstc_engine.presets import IMAGENET256_IMAGE, IMAGENET256_TEXT, TINY64, TINY64_VARIANCE, Preset
from dstc_engine.request import TranslationRequest
from dstc_engine.slots import Move, Slot

PIXELS = np.zeros((4, 4, 3), np.uint8)
TEXT = TranslationRequest("text", PIXELS, 0, prompt="a fox")
IMAGE = TranslationRequest("image", PIXELS, 0, style=PIXELS)
BOTH = TranslationRequest("both", PIXELS, 0, style=PIXELS, prompt="a fox")
SHORT = Preset(name="short", resample=3)


def losses(range_: float = 0.0, clip: float = -0.1, total: float = 1.0) -> dict[str, float]:
    return {"range": range_, "clip": clip, "total": total}


def moves(slot: Slot, preset: Preset) -> list[Move]:
    """Steps with calm losses to the end."""
    made = [slot.advance(losses(), preset)]
    while made[-1] in (Move.STEP, Move.GO_BACK):
        made.append(slot.advance(losses(), preset))
    return made


@pytest.mark.parametrize(
    ("preset", "steps"),
    [(IMAGENET256_TEXT, 69), (IMAGENET256_IMAGE, 129), (TINY64, 11), (TINY64_VARIANCE, 24)],
)
def test_guided_steps_of_the_presets(preset: Preset, steps: int) -> None:
    first = Schedule.respaced(preset.respacing).first_index(preset.skip)
    made = moves(Slot(TEXT, first, 0.0), preset)
    assert len(made) == steps
    assert made[: preset.resample - 1] == [Move.GO_BACK] * (preset.resample - 1)
    assert made[preset.resample - 1 : -1] == [Move.STEP] * (steps - preset.resample)
    assert made[-1] is Move.FINISH


@given(first=st.integers(0, 20), resample=st.integers(1, 6))
@settings(deadline=None, derandomize=True, database=None, max_examples=40)
def test_indices_and_phases_of_a_calm_chain(first: int, resample: int) -> None:
    preset = dataclasses.replace(SHORT, resample=resample)
    slot = Slot(TEXT, first, 0.0)
    assert moves(slot, preset)[-1] is Move.FINISH
    repeats = resample if resample > 1 else 0
    assert [s.index for s in slot.losses] == [first] * resample + list(range(first - 1, -1, -1))
    phases = [s.phase for s in slot.losses]
    assert phases == ["resample"] * repeats + ["sample"] * (first + resample - repeats)
    assert slot.steps == first + resample


def test_numbers_out_of_the_finite_range_fail_the_row_at_once() -> None:
    for total in (math.nan, math.inf, -math.inf):
        slot = Slot(TEXT, 5, 0.0)
        slot.advance(losses(), SHORT)
        assert slot.advance(losses(total=total), SHORT) is Move.FAIL
        assert slot.steps == 2 and len(slot.losses) == 2


RESTARTING = dataclasses.replace(
    SHORT, range_restart=True, range_restart_limit=0.01, weight_range=200.0, max_restarts=2
)


def test_a_chain_out_of_range_starts_again_until_it_may_not() -> None:
    slot = Slot(TEXT, 3, -0.3)
    # 200 x 6e-5 is above 0.01, 200 x 4e-5 is not.
    assert [slot.advance(losses(9.0), RESTARTING) for _ in range(3)] == [
        Move.GO_BACK,
        Move.GO_BACK,
        Move.STEP,
    ], "never at the first index"
    assert slot.advance(losses(6e-5, clip=-0.9), RESTARTING) is Move.RESTART
    assert (slot.index, slot.repeat, slot.restarts, slot.losses) == (3, 0, 1, [])
    assert slot.previous_clip_loss == -0.3
    for _ in range(3):
        slot.advance(losses(), RESTARTING)
    assert slot.advance(losses(4e-5), RESTARTING) is Move.STEP
    assert slot.advance(losses(6e-5), RESTARTING) is Move.RESTART
    assert slot.restarts == 2
    assert [slot.advance(losses(9.0), RESTARTING) for _ in range(6)] == [
        Move.GO_BACK,
        Move.GO_BACK,
        Move.STEP,
        Move.STEP,
        Move.STEP,
        Move.FINISH,
    ]
    assert slot.steps == 4 + 5 + 6 and len(slot.losses) == 6


def test_a_chain_that_has_its_image_is_not_started_again() -> None:
    # The official loop breaks off at the flag, sees that it was at index 0, and ends.
    slot = Slot(TEXT, 1, 0.0)
    alone = dataclasses.replace(RESTARTING, resample=1)
    made = [slot.advance(losses(), alone), slot.advance(losses(9.0), alone)]
    assert made == [Move.STEP, Move.FINISH] and slot.restarts == 0


def test_ranges_are_ignored_unless_asked_for() -> None:
    slot = Slot(TEXT, 1, 0.0)
    calm = dataclasses.replace(RESTARTING, range_restart=False)
    made = [slot.advance(losses(1e6), calm) for _ in range(4)]
    assert Move.RESTART not in made and made[-1] is Move.FINISH


def test_a_range_that_is_not_computed_restarts_nothing() -> None:
    slot = Slot(TEXT, 1, 0.0)
    unweighted = dataclasses.replace(RESTARTING, weight_range=0.0)
    made = [slot.advance(losses(math.nan), unweighted) for _ in range(4)]
    assert Move.RESTART not in made and made[-1] is Move.FINISH


def test_weights_by_mode() -> None:
    def of(request: TranslationRequest) -> dict[str, float]:
        return Slot(request, 59, math.nan).weights(preset)

    preset = dataclasses.replace(IMAGENET256_TEXT, weight_vgg_content=30, weight_vgg_gram=40)
    structure = {"structure": 1000, "contrast": 200, "divergence": 100, "range": 200}
    always = dict.fromkeys(LOSSES, 0) | structure | {"vgg_content": 30}
    style = {"style_cls": 2000, "style_pixels": 3000, "vgg_gram": 40}
    assert of(TEXT) == always | {"clip": 2000}
    assert of(IMAGE) == always | style
    assert of(BOTH) == always | style | {"clip": 2000}


def test_the_divergence_gate_is_open_above_its_index_only() -> None:
    slot = Slot(TEXT, 59, 0.0)
    opened = {}
    for index in (59, 51, 50, 49, 0):
        slot.index = index
        opened[index] = slot.weights(IMAGENET256_TEXT)["divergence"]
    assert opened == {59: 100, 51: 100, 50: 0, 49: 0, 0: 0}


@pytest.mark.parametrize(
    ("previous", "regularized", "progressive"),
    [
        (-0.51, 400, 200),
        (-0.5, 200, 200),
        (-0.49, 200, 100),
        (0.2, 200, 100),
        (math.nan, 200, 200),
    ],
)
def test_contrast_follows_the_last_clip_loss(
    previous: float, regularized: float, progressive: float
) -> None:
    regular = dataclasses.replace(SHORT, regularize_content=True)
    gradual = dataclasses.replace(SHORT, progressive_contrast=True)
    # Before the first step it is the source's own, afterwards the last step's.
    fresh, later = Slot(TEXT, 5, previous), Slot(TEXT, 5, 7.0)
    later.advance(losses(clip=previous), SHORT)
    for slot in (fresh, later):
        assert slot.weights(SHORT)["contrast"] == 200
        assert slot.weights(regular)["contrast"] == regularized
        assert slot.weights(gradual)["contrast"] == progressive
