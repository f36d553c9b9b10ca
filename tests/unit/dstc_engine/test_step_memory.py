"""Bytes that are known beforehand: of named presets as they are, and of nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from dstc_engine.presets import PRESETS
from dstc_engine.step_memory import MOST, SHARE, StepMemory, step_memory

GIB = 2**30
MEMORY = StepMemory(weights=3 * GIB, fixed=4 * GIB, each=2 * GIB, in_group=GIB)


def test_a_step_takes_its_slots_and_the_rows_of_a_group() -> None:
    # Groups of four rows, or of all where there are fewer.
    assert [MEMORY.peak(slots) / GIB for slots in (1, 2, 8, 32)] == [7, 10, 24, 72]


@pytest.mark.parametrize(("room", "slots"), [(6, 0), (7, 1), (23.9, 7), (24, 8), (1000, MOST)])
def test_slots_in_so_many_bytes(room: float, slots: int) -> None:
    assert MEMORY.slots_in(room * GIB) == slots


def test_a_card_holds_whole_groups_in_its_share() -> None:
    assert MEMORY.slots_in(SHARE * 31 * GIB) == 9 and MEMORY.slots_on(31 * GIB) == 8


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_preset_is_counted(name: str, precision: str) -> None:
    plain, again = (step_memory(PRESETS[name], precision, keep) for keep in (False, True))
    assert plain and again, "run python -m benchmarks.slot_memory, then python docs/make_tables.py"
    assert 0 < plain.weights < plain.peak(1) < plain.peak(4)
    assert again.weights == plain.weights and again.peak(4) < plain.peak(4)


def test_half_precision_takes_less() -> None:
    for preset in (PRESETS["tiny64"], PRESETS["imagenet256-text"]):
        half, full = step_memory(preset, "bf16"), step_memory(preset, "fp32")
        assert half and full and half.peak(4) < full.peak(4)
        assert step_memory(preset, "fp16") == half


def test_a_preset_with_a_field_changed_is_not_known() -> None:
    changed = dataclasses.replace(PRESETS["imagenet256-text"], crops=4)
    assert step_memory(changed, "bf16") is None
    assert step_memory(dataclasses.replace(changed, name="mine"), "bf16") is None
