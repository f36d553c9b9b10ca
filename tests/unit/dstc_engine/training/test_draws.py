from __future__ import annotations

import threading

import pytest

from dstc_engine.training.draws import threads_for, with_batches

PACED = [(step, step == 4) for step in range(5)]


def _drawing_threads() -> int:
    return sum(thread.name.startswith("draws") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 3])
def test_each_step_has_its_own_batch_and_none_is_drawn_twice(threads: int) -> None:
    drawn: list[int] = []

    def draw(step: int) -> str:
        drawn.append(step)
        return f"batch {step}"

    found = list(with_batches(PACED, draw, 5, threads))
    assert found == [(step, save, f"batch {step}") for step, save in PACED]
    assert sorted(drawn) == list(range(5))


def test_following_batches_are_drawn_while_one_is_used_and_no_more_than_that() -> None:
    begun: list[int] = []
    third = threading.Event()

    def draw(step: int) -> int:
        begun.append(step)
        if step == 2:
            third.set()
        return step

    batches = with_batches(PACED, draw, 5, threads=2)
    next(batches)
    assert third.wait(timeout=30)
    assert max(begun) == 2
    batches.close()  # type: ignore[attr-defined]


def test_no_batch_after_the_last_step_is_begun() -> None:
    drawn: list[int] = []
    list(with_batches([(8, False), (9, True)], drawn.append, 10, threads=4))
    assert sorted(drawn) == [8, 9]


def test_a_broken_draw_is_told_at_its_step_and_ends_the_threads() -> None:
    def draw(step: int) -> int:
        if step == 1:
            raise ValueError("no image there")
        return step

    batches = with_batches(PACED, draw, 5, threads=2)
    assert next(batches)[2] == 0
    with pytest.raises(ValueError, match="no image there"):
        next(batches)
    assert _drawing_threads() == 0


def test_a_cpu_has_one_thread_that_draws_and_a_gpu_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstc_engine.training.draws.usable_cores", lambda: 16)
    assert (threads_for("cpu"), threads_for("cuda:0")) == (1, 8)
    monkeypatch.setattr("dstc_engine.training.draws.usable_cores", lambda: 1)
    assert threads_for("cuda") == 1
