"""The pace of a run, from beats made by hand: rows of 22 steps in the four slots of an actor."""

from __future__ import annotations

import dataclasses

import pytest

from dstc.driver.pace import Pace, PaceMeter
from dstc.worker.row_count import RowCount, Work

ROW_S = 88.0  # so a slot does a row in that time, and an actor 4 / 88 rows a second
STEP_S = ROW_S / 22


class Run:
    """A run of 40 rows, told of by its actors; looked at where a test says so."""

    def __init__(self, rows: int = 40, rows_before: int = 0) -> None:
        self.count = RowCount()
        self.meter = PaceMeter(rows, rows_before)

    def beat(self, now: float, *actors: tuple[str, Work]) -> Pace:
        for shard, (name, work) in enumerate(actors):
            self.count.beat(name, 4, 4, work)
            self.count.tell(shard, 0)
            self.count.tell(shard, work.rows, name, work)
        self.meter.take(self.count.snapshot(), now)
        return self.meter.pace


def work_at(seconds: float, slots: int = 4, says_steps: bool = True) -> Work:
    """What an actor has done so many seconds after its slots were filled, all at once."""
    steps = int(seconds / STEP_S)
    if steps == 0:
        return Work()
    rows, part = divmod(steps, 22)
    underway = slots * part / 22 if says_steps else 0.0
    first = slots / 22 if says_steps else 0.0
    return Work(slots * rows, underway, slots * rows + underway - first, seconds - STEP_S)


def test_no_rate_is_told_before_a_row_has_ended() -> None:
    run = Run()
    for seconds in range(0, 88, 4):
        pace = run.beat(seconds, ("a", work_at(seconds)))
        assert (pace.rate, pace.seconds_left) == (None, None)
        assert pace.rows_ended == 0 and pace.rows_done == pytest.approx(4 * seconds / 88)


def test_the_first_rate_is_the_one_the_run_has() -> None:
    run = Run()
    for seconds in range(0, 88, 4):
        run.beat(seconds, ("a", work_at(seconds)))
    # The rows of a batch end within one step, and their words come one after another.
    for ended in (1, 2, 3, 4):
        whole = work_at(88)
        run.count.tell(0, ended, "a", Work(ended, 4.0 - ended, whole.done, whole.seconds))
        run.meter.take(run.count.snapshot(), 88 + ended)
        pace = run.meter.pace
        assert (pace.rows_ended, pace.rows_done) == (ended, 4)
        assert pace.rate == pytest.approx(4 / ROW_S)
        assert pace.seconds_left == pytest.approx(36 / 4 * ROW_S)


def test_a_first_step_that_compiles_slows_no_rate() -> None:
    run = Run()
    for seconds in range(4, 92, 4):
        pace = run.beat(200 + seconds, ("a", work_at(seconds)))
    assert pace.rate == pytest.approx(4 / ROW_S)


def test_actors_that_begin_later_are_counted_by_their_own_time() -> None:
    run = Run()
    for seconds in range(0, 92, 4):
        actors = [("a", work_at(seconds))]
        if seconds >= 60:
            actors.append(("b", work_at(seconds - 60)))
        pace = run.beat(seconds, *actors)
    # But for the one step of the later actor that its time leaves out.
    assert pace.rate == pytest.approx(2 * 4 / ROW_S, rel=0.04)


def test_rows_kept_from_earlier_commands_are_no_rate() -> None:
    run = Run(rows_before=8)
    run.count.tell(0, 10)
    pace = run.beat(1, ("a", work_at(8)))
    assert (pace.rows_ended, pace.rate) == (18, None)
    for seconds in range(12, 88, 4):
        assert run.beat(seconds, ("a", work_at(seconds))).rate is None
    run.count.tell(0, 14)
    pace = run.beat(88, ("a", work_at(88)))
    assert (pace.rows_ended, pace.rate) == (22, pytest.approx(4 / ROW_S))
    assert pace.seconds_left == pytest.approx(18 / (4 / ROW_S))


def test_rejected_rows_alone_make_no_rate_and_then_count_as_rows() -> None:
    run = Run(rows=1000)
    run.count.tell(0, 0)
    run.count.tell(0, 30)
    pace = run.beat(8, ("a", work_at(8)))
    assert (pace.rows_ended, pace.rate) == (30, None)
    # From here on, one row is rejected for each that is translated.
    run.count.tell(0, 38)
    rate = run.beat(88, ("a", work_at(88))).rate
    assert rate == pytest.approx(2 * 4 / ROW_S, rel=0.05)


def test_an_engine_that_does_not_say_its_steps_is_counted_by_rows() -> None:
    run = Run()
    for seconds in range(0, 88, 4):
        pace = run.beat(seconds, ("a", work_at(seconds, says_steps=False)))
        assert (pace.rows_done, pace.rate) == (0, None)
    pace = run.beat(88, ("a", work_at(88, says_steps=False)))
    assert pace.rate == pytest.approx(4 / ROW_S, rel=0.05)


def test_a_row_that_starts_again_takes_the_rate_back_and_not_the_bar() -> None:
    run = Run()
    for seconds in range(0, 92, 4):
        run.beat(seconds, ("a", work_at(seconds)))
    before = run.beat(132, ("a", Work(4, 2.0, 6 - 4 / 22, 128)))
    after = run.beat(136, ("a", Work(4, 1.6, 5.6 - 4 / 22, 132)))
    assert before.rate is not None and after.rate is not None
    assert after.rows_done == before.rows_done
    assert after.rate == pytest.approx((5.6 - 4 / 22) / 132) and after.rate < before.rate


def test_what_a_dead_process_had_begun_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("dstc.worker.row_count.time.monotonic", lambda: clock[0])
    run = Run()
    run.beat(100, ("a", Work(4, 2.0, 5.8, 128)), ("b", Work(4, 2.0, 5.8, 128)))
    clock[0] = 120.0
    run.count.beat("b", 4, 4, Work(4, 2.9, 6.7, 148))
    snapshot = run.count.snapshot()
    assert (snapshot.actors_at_work, snapshot.workers, snapshot.workers_seen) == (1, 1, 2)
    assert (snapshot.work.rows, snapshot.work.underway) == (8, 2.9)
    assert snapshot.work.done == pytest.approx(3.8 + 6.7) and snapshot.work.seconds == 276


def test_the_rate_is_that_of_the_last_minutes() -> None:
    run = Run(rows=100_000)
    done = 0.0
    for seconds in range(5, 2005, 5):
        done += 5 * (10 if seconds <= 1000 else 2)
        pace = run.beat(seconds, ("a", Work(int(done), done % 1, done, seconds)))
    assert pace.rate == pytest.approx(2)


def test_an_engine_that_stands_still_loses_its_rate_slowly() -> None:
    run = Run()
    for seconds in range(0, 92, 4):
        run.beat(seconds, ("a", work_at(seconds)))
    stuck = work_at(88)
    pace = run.beat(172, ("a", dataclasses.replace(stuck, seconds=2 * stuck.seconds)))
    assert pace.rate == pytest.approx(2 / ROW_S)
