"""The student's engine: rows alone and among others, unknown looks, gates, masks."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from dstc_engine.engine import translate
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.load import Student, load_student
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import OPEN, asking, encoders, write_student

BATCH = 4


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    asked = [asking("both", 1), asking("text", 2), asking("image", 3)]
    folder = write_student(tmp_path_factory.mktemp("student"), encoders(), asked)
    return load_student(folder, tiny.PRESET, encoders())


def _run(student: Student, requests: Iterable[TranslationRequest]) -> dict[str, Translation]:
    return {t.id: t for t in translate(StudentEngine(student, BATCH), requests)}


def _same(ours: Translation, theirs: Translation) -> bool:
    assert ours.image is not None and theirs.image is not None
    return np.array_equal(ours.image, theirs.image) and repr(ours.distances) == repr(
        theirs.distances
    )


KNOWN = (("both", 1), ("text", 2), ("image", 3))


def test_a_row_is_the_same_alone_and_in_each_place_of_a_batch(student: Student) -> None:
    for kind, look in KNOWN:
        row = asking(kind, look, content=9)
        alone = _run(student, [row])[row.id]
        for place in range(BATCH):
            others = [asking(*KNOWN[n % 3], content=n) for n in range(BATCH)]
            others[place] = row
            assert _same(_run(student, others)[row.id], alone)


def test_an_image_is_what_the_network_makes_of_content_and_look(student: Student) -> None:
    row = asking("image", 3, content=5)
    made = _run(student, [row])[row.id]
    assert (made.status, made.made_by, made.steps, made.slots) == ("done", "student", 1, BATCH)
    assert made.failed_gates == ()
    assert made.image is not None and made.image.shape == (tiny.SIZE, tiny.SIZE, 3)
    assert not np.array_equal(made.image, row.content)
    assert set(made.distances) == set(OPEN)


def test_looks_give_the_same_content_other_images(student: Student) -> None:
    images = [t.image for t in _run(student, [asking(*look) for look in KNOWN]).values()]
    assert len({image.tobytes() for image in images if image is not None}) == 3


def test_more_rows_than_a_batch_wait_their_turn(student: Student) -> None:
    engine = StudentEngine(student, BATCH)
    assert (engine.free_slots, engine.is_finished) == (BATCH, True)
    for n in range(BATCH + 2):
        engine.add(asking("text", 2, content=n))
    assert (engine.free_slots, engine.is_finished) == (0, False)
    assert len(engine.step()) == BATCH
    assert len(engine.step()) == 2 and engine.is_finished
    assert engine.step() == []


def test_a_look_far_from_all_known_ones_is_not_tried(student: Student) -> None:
    rows = [asking("text", 77), asking("image", 3)]
    assert not StudentEngine(student).knows(rows[0]) and StudentEngine(student).knows(rows[1])
    ended = _run(student, rows)
    unknown = ended[rows[0].id]
    assert (unknown.status, unknown.reason, unknown.image) == ("failed", "unknown_look", None)
    assert unknown.error is not None and "'look 77'" in unknown.error
    assert ended[rows[1].id].status == "done"


def test_a_look_near_a_known_one_is_tried(student: Student, tmp_path: Path) -> None:
    style = tiny.image(203).copy()
    style[0, 0] ^= 1  # another image, and nearly the same
    near = asking("image", 3, style=style)
    # In the module's student no other look is of its kind.
    assert not StudentEngine(student).knows(near)
    asked = [asking("image", 3), asking("image", 4)]
    folder = write_student(tmp_path, encoders(), asked)
    wide = load_student(folder, tiny.PRESET, encoders())
    assert StudentEngine(wide).knows(near)
    assert not StudentEngine(wide).knows(asking("text", 3))


def test_a_student_of_style_images_knows_no_prompt(tmp_path: Path) -> None:
    asked = [asking("image", 1), asking("image", 2)]
    folder = write_student(tmp_path, encoders(clips=False), asked)
    student = load_student(folder, tiny.PRESET, encoders(clips=False))
    assert StudentEngine(student).knows(asked[0])
    assert not StudentEngine(student).knows(asking("both", 1))


def test_gates_tell_which_images_are_not_to_be_used(tmp_path: Path) -> None:
    folder = write_student(
        tmp_path, encoders(), [asking("image", 1)], limits={**OPEN, "structure": 0.0}
    )
    student = load_student(folder, tiny.PRESET, encoders())
    row = asking("image", 1, content=3)
    made = _run(student, [row])[row.id]
    assert made.status == "done" and made.failed_gates == ("structure",)


def test_a_mask_keeps_the_content(student: Student) -> None:
    row = asking("image", 3, content=4)
    masked = dataclasses.replace(row, id="masked", mask=tiny.half_mask())
    ended = _run(student, [row, masked])
    whole, kept = ended[row.id].image, ended["masked"].image
    assert whole is not None and kept is not None
    half = tiny.SIZE // 2
    assert np.array_equal(kept[:, :half], whole[:, :half])
    assert np.array_equal(kept[:, half:], row.content[:, half:])


def test_numbers_that_leave_the_finite_range_fail_the_row(student: Student) -> None:
    made = _broken(student)
    row = asking("image", 3)
    ended = _run(made, [row])[row.id]
    assert (ended.status, ended.reason, ended.image) == ("failed", "non_finite", None)


def _broken(student: Student) -> Student:
    """The same student with a number that no training leaves."""
    network = copy.deepcopy(student.network)
    with torch.no_grad():
        network.leave.bias[0] = torch.inf
    return dataclasses.replace(student, network=network)
