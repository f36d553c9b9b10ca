"""Which class a prior is shown, and classes that do not exist."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dstc_engine.errors import PresetError
from dstc_engine.guidance.prior_class import classes_of, draw_classes
from tests.unit.dstc_engine import tiny

CONDITIONAL = dataclasses.replace(tiny.UNET, classes=5)


class Counting:
    """A row's classes, one after the other; of other noise there is none."""

    def __init__(self, first: int) -> None:
        self.next = first

    def prior_class(self, count: int) -> int:
        self.next += 1
        return (self.next - 1) % count


def test_each_row_draws_its_own() -> None:
    rows = [Counting(0), None, Counting(3)]
    drawn = [draw_classes(rows, 5, -1) for _ in range(3)]  # type: ignore[arg-type]
    assert [d.tolist() for d in drawn if d is not None] == [[0, 0, 3], [1, 0, 4], [2, 0, 0]]
    assert all(d is not None and d.dtype == torch.int64 for d in drawn)


def test_a_fixed_class_draws_nothing() -> None:
    row = Counting(0)
    drawn = draw_classes([row, None], 5, 3)  # type: ignore[list-item]
    assert drawn is not None and drawn.tolist() == [3, 0] and row.next == 0


def test_a_prior_without_classes_draws_nothing() -> None:
    row = Counting(0)
    assert draw_classes([row], None, -1) is None and row.next == 0  # type: ignore[list-item]


def test_classes_that_the_prior_has() -> None:
    assert classes_of(tiny.UNET, tiny.PRESET) is None
    for fixed in (-1, 0, 4):
        preset = dataclasses.replace(tiny.PRESET, prior_class=fixed)
        assert classes_of(CONDITIONAL, preset) == 5


def test_classes_that_it_does_not_have() -> None:
    preset = dataclasses.replace(tiny.PRESET, prior_class=5)
    with pytest.raises(PresetError, match="preset 'tiny': prior_class is 5; expected -1 to 4"):
        classes_of(CONDITIONAL, preset)
    preset = dataclasses.replace(tiny.PRESET, prior_class=0)
    with pytest.raises(PresetError, match="prior_class is 0; expected -1, since the prior has non"):
        classes_of(tiny.UNET, preset)
