"""The fake engine keeps the promises of the real one's verbs."""

from __future__ import annotations

import dataclasses

import numpy as np

from dstc_engine.fake import FakeEngine
from dstc_engine.request import Translation
from tests.unit.dstc_engine.tiny import PRESET, SIZE, request


def finish(engine: FakeEngine) -> list[Translation]:
    ended: list[Translation] = []
    while not engine.is_finished:
        ended += engine.step()
    return ended


def test_slots_are_filled_held_and_refilled() -> None:
    engine = FakeEngine(PRESET, slots=2, steps=3)
    assert engine.is_finished and engine.free_slots == 2 and engine.step() == []
    for seed in range(3):
        engine.add(request("text", seed))
    assert engine.free_slots == 0
    names = [[t.id for t in engine.step()] for _ in range(6)]
    assert names == [[], [], ["text-0", "text-1"], [], [], ["text-2"]]
    assert engine.is_finished


def test_it_says_how_much_of_its_rows_is_done() -> None:
    engine = FakeEngine(PRESET, slots=2, steps=4)
    engine.add(request("text", 0))
    engine.step()
    engine.add(request("text", 1))
    engine.step()
    assert engine.rows_underway == (2 + 1) / 4
    finish(engine)
    assert engine.rows_underway == 0


def test_another_seed_gives_another_image() -> None:
    engine = FakeEngine(PRESET, slots=3)
    row = request("text", 3)
    for seed in (1, 2, 1 << 16):
        engine.add(dataclasses.replace(row, seed=seed))
    images = [t.image for t in finish(engine)]
    assert len({image.tobytes() for image in images if image is not None}) == 3


def test_a_image_depends_on_its_row_alone() -> None:
    row = request("text", 3)
    alone = FakeEngine(PRESET, slots=1)
    crowd = FakeEngine(PRESET, slots=4, steps=2)
    alone.add(row)
    for seed in range(6):
        crowd.add(request("text", seed))
    ours = {t.id: t for t in finish(crowd)}
    theirs = finish(alone)[0]
    assert len(ours) == 6 and theirs.image is not None
    assert theirs.image.shape == (SIZE, SIZE, 3)
    assert np.array_equal(ours[row.id].image, theirs.image)  # type: ignore[arg-type]
    negative = theirs.image.astype(int) + row.content
    assert np.array_equal(negative[1:], np.full((15, 16, 3), 255))
    assert [step.index for step in theirs.losses] == [4, 3, 2, 1, 0]
