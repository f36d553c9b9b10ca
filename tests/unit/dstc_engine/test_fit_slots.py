"""Choosing slots by memory, with a card that is made up, and steps of the heaviest rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dstc_engine.errors import DeviceMemoryError
from dstc_engine.fit_slots import (
    MemoryLine,
    choose_slots,
    heaviest_row,
    slots_that_fit,
    take_steps,
)
from dstc_engine.models import Models
from dstc_engine.step_memory import MOST, SHARE, StepMemory
from tests.unit.dstc_engine.tiny import PRESET, SIZE

GIB = 2**30
NO_ROOM = torch.OutOfMemoryError("CUDA out of memory")


class Card:
    """A card of so many GiB, on which weights take 6 and a slot takes 2; `extra` bends the line."""

    def __init__(
        self,
        size: float,
        extra: Callable[[int], float] = lambda slots: 0.0,
        refusal: Exception = NO_ROOM,
    ) -> None:
        self.size, self.extra, self.refusal = size, extra, refusal
        self.asked: list[int] = []

    def peak_of(self, slots: int) -> int:
        self.asked.append(slots)
        taken = 6 + 2 * slots + self.extra(slots)
        if taken > self.size:
            raise self.refusal
        return int(taken * GIB)

    def choose(self, expected: StepMemory | None = None) -> int:
        return choose_slots(self.peak_of, int(self.size * GIB), expected)


def counted(fixed: float, each: float) -> StepMemory:
    return StepMemory(weights=0, fixed=int(fixed * GIB), each=int(each * GIB), in_group=0)


def test_memory_is_a_line_by_slots() -> None:
    line = MemoryLine.through({1: 1300, 2: 1600, 4: 2200})
    assert (line.fixed, line.each) == pytest.approx((1000, 300))
    assert line.slots_in(2499) == 4 and line.slots_in(2501) == 5
    assert MemoryLine(1000, 0.0).slots_in(10) == MOST


@pytest.mark.parametrize(
    ("size", "slots"),
    [
        (80, 32),  # 72 to use: 33 slots, whole groups of four
        (24, 7),  # 21.6 to use
        (141, 60),
        (1000, MOST),
        (16, 4),  # 14.4 to use: 4 slots at 14
        (14, 2),  # 12.6: 4 do not fit, 2 take 10
        (9, 1),  # 8.1
    ],
)
def test_the_line_is_proved(size: float, slots: int) -> None:
    card = Card(size)
    assert card.choose() == slots
    # What is chosen has been run, and fits the share.
    assert slots in card.asked and 6 + 2 * slots <= SHARE * size


def test_a_line_that_bends_upwards_costs_slots_and_no_crash() -> None:
    # From 16 slots on a network sees four rows at once.
    card = Card(62, extra=lambda slots: 4.0 * min(slots // 4, 4))
    slots = card.choose()
    assert slots == 16 and card.asked == [1, 2, 4, 12, 16]
    assert card.peak_of(slots) <= SHARE * 62 * GIB


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"]
)
def test_memory_ends_in_other_libraries_too(said: str) -> None:
    # 4 slots take 14 GiB, so that they do not fit, and are not even measured.
    assert Card(13, refusal=RuntimeError(said)).choose() == 2
    with pytest.raises(RuntimeError, match="illegal"):
        Card(13, refusal=RuntimeError("CUDA error: an illegal memory access")).choose()


def test_what_was_counted_is_tried_first_and_proved() -> None:
    card = Card(80)  # 72 to use: 33 slots, whole groups of four
    assert card.choose(counted(6, 2)) == 32 and card.asked == [32]


def test_a_count_that_is_too_high_is_corrected_by_what_was_measured() -> None:
    card = Card(80)
    # 20 slots are measured at 46 GiB and were counted at 65: there is room for more.
    assert card.choose(counted(6, 3)) == 32 and card.asked == [20, 32]


def test_a_count_that_is_too_low_falls_back_to_measuring() -> None:
    card = Card(80)
    assert card.choose(counted(6, 1)) == 32
    assert card.asked[:4] == [64, 1, 2, 4] and card.asked[-1] == 32


def test_a_card_that_should_hold_no_slot_is_measured_all_the_same() -> None:
    card = Card(14)
    assert card.choose(counted(20, 2)) == 2 and card.asked == [1, 2, 4]


def test_a_card_too_small_for_one_slot_is_told() -> None:
    with pytest.raises(DeviceMemoryError, match=r"one slot takes 8\.0 GiB; found 7\.6 GiB"):
        Card(8.5).choose()
    with pytest.raises(DeviceMemoryError, match=r"one slot takes more GiB; found 4\.5 GiB"):
        Card(5).choose()


def test_steps_of_the_heaviest_rows_go_through_every_network(models: Models) -> None:
    row = heaviest_row(PRESET, 3)
    assert row.prompt and row.style is not None and row.content.shape == (SIZE, SIZE, 3)
    assert (row.content != heaviest_row(PRESET, 4).content).any()
    seen: dict[str, list[int]] = {"unet": [], "dino": [], "clip": []}
    handles = [
        network.register_forward_hook(lambda m, given, out, name=name: seen[name].append(len(out)))
        for name, network in (("unet", models.unet), ("clip", models.clips[0].model.visual))
    ]
    assert models.dino is not None
    handles.append(
        models.dino.register_forward_hook(lambda m, given, out: seen["dino"].append(len(given[0])))
    )
    take_steps(models, PRESET, 4)
    for handle in handles:
        handle.remove()
    assert seen["unet"] == [4, 4] and seen["dino"][-2:] == [4, 4]
    assert seen["clip"][-8:] == [PRESET.crops] * 8, "four rows in each of two steps"


def test_only_gpus_are_measured(models: Models) -> None:
    with pytest.raises(ValueError, match="models are on cpu; expected a GPU"):
        slots_that_fit(models, PRESET)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: nothing to measure")
def test_slots_of_this_card() -> None:
    from tests.unit.dstc_engine import tiny

    models = tiny.make_models(device=torch.device("cuda"))
    assert 4 <= slots_that_fit(models, PRESET) <= MOST
