"""The student and the guided engine as one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dstc_engine.engine import Engine, translate
from dstc_engine.models import Models
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.fallback import Fallback, FallbackEngine
from dstc_engine.student.load import Student, load_student
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import OPEN, asking, encoders, write_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """Of look 1 it vouches for each image, of look 2 for none."""
    asked = [asking("image", 1), asking("both", 2)]
    folder = write_student(tmp_path_factory.mktemp("student"), encoders(), asked)
    loaded = load_student(folder, tiny.PRESET, encoders())
    one, two = loaded.record.looks
    two = dataclasses.replace(two, limits={**OPEN, "structure": 0.0})
    return dataclasses.replace(loaded, record=dataclasses.replace(loaded.record, looks=(one, two)))


class _Made:
    """Makes guided engines, and counts them."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.count = 0

    def __call__(self) -> Engine:
        self.count += 1
        return Engine(self._models, tiny.PRESET, 2)


def _run(
    student: Student, guided: _Made, rows: list[TranslationRequest], fallback: Fallback = "guided"
) -> dict[str, Translation]:
    judging = StudentEngine(student, 4, judges=fallback != "none")
    engine = FallbackEngine(judging, guided, fallback)
    ended = {t.id: t for t in translate(engine, rows)}  # type: ignore[arg-type]
    assert engine.is_finished and set(ended) == {row.id for row in rows}
    return ended


def _of_look(look: int, count: int) -> list[TranslationRequest]:
    return [asking("image" if look == 1 else "both", look, content=n) for n in range(count)]


def test_a_job_of_images_that_pass_never_makes_the_guided_engine(
    student: Student, models: Models
) -> None:
    guided = _Made(models)
    ended = _run(student, guided, _of_look(1, 6))
    assert {t.made_by for t in ended.values()} == {"student"} and guided.count == 0


def test_images_that_fail_and_looks_not_known_are_guided(student: Student, models: Models) -> None:
    guided = _Made(models)
    rows = [*_of_look(1, 3), *_of_look(2, 3), asking("text", 9)]
    ended = _run(student, guided, rows)
    assert [ended[row.id].made_by for row in rows] == ["student"] * 3 + ["guided"] * 4
    assert all(t.status == "done" for t in ended.values()) and guided.count == 1
    # Guided as if there were no student, to the last bit.
    alone = tiny.run(models, rows[3:], slots=2)
    for row in rows[3:]:
        tiny.assert_same(ended[row.id], alone[row.id])


def test_a_row_is_the_same_whoever_its_neighbors_are(student: Student, models: Models) -> None:
    rows = [*_of_look(2, 4), *_of_look(1, 4)]
    together = _run(student, _Made(models), rows)
    for row in (rows[0], rows[7]):
        alone = _run(student, _Made(models), [row])[row.id]
        ours, theirs = alone.image, together[row.id].image
        assert ours is not None and theirs is not None and np.array_equal(ours, theirs)


def test_rows_in_line_for_guidance_stop_new_ones(student: Student, models: Models) -> None:
    engine = FallbackEngine(StudentEngine(student, 16), _Made(models))
    for row in _of_look(2, 12):
        engine.add(row)
    assert engine.free_slots == 4
    engine.step()
    assert engine.free_slots == 0 and not engine.is_finished  # 2 guided, 10 in line
    assert 0 < engine.rows_underway < 2
    while not engine.is_finished:
        engine.step()
    assert engine.free_slots == 16 and not engine.is_device_dead()


@pytest.mark.parametrize(("fallback", "told"), [("flag", ("structure",)), ("none", ())])
def test_images_that_fail_can_be_used_all_the_same(
    fallback: Fallback, told: tuple[str, ...], student: Student, models: Models, tmp_path: Path
) -> None:
    guided = _Made(models)
    rows = [*_of_look(1, 1), *_of_look(2, 1), asking("text", 9)]
    ended = list(_run(student, guided, rows, fallback).values())
    by_id = {t.id: t for t in ended}
    assert by_id[rows[0].id].failed_gates == () and by_id[rows[1].id].failed_gates == told
    assert {by_id[row.id].made_by for row in rows[:2]} == {"student"}
    assert all(bool(by_id[row.id].distances) == (fallback == "flag") for row in rows[:2])
    assert by_id[rows[2].id].reason == "unknown_look" and guided.count == 0
