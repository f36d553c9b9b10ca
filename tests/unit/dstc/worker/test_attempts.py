from __future__ import annotations

import json
from pathlib import Path

import pytest

from dstc.store.run_folder import RunFolder
from dstc.worker.attempts import Attempt
from dstc.worker.row import Failed
from dstc.worker.timed_threads import Overdue


def test_a_shard_that_keeps_dying_is_run_carefully(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    attempts = [Attempt(run, 0) for _ in range(3)]
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert [attempt.is_careful for attempt in attempts] == [False, False, True]


def test_the_row_that_was_alone_at_two_deaths_is_blamed(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for expected in (False, False, True):
        attempt = Attempt(run, 0)
        assert attempt.is_blamed("poison") is expected
        attempt.start_alone("fine")
        attempt.end_alone()
        attempt.start_alone("poison")
    assert not Attempt(run, 0).is_blamed("fine")


def test_a_row_that_is_alone_no_more_is_not_blamed(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(4):
        attempt = Attempt(run, 0)
        with pytest.raises(ValueError, match="unreadable"), attempt.alone("fine"):
            raise ValueError("unreadable")
        with attempt.alone("beside another", is_sure=False):
            other = Attempt(run, 0)  # the process ends here
        assert not other.is_blamed("fine") and not other.is_blamed("beside another")


def test_a_row_beyond_its_deadline_is_refused_by_later_attempts(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    attempt = Attempt(run, 0)
    with pytest.raises(Overdue), attempt.alone("slow"):
        raise Overdue("too long")
    for _ in range(2):
        attempt = Attempt(run, 0)
        attempt.refuse_deadly("fine")
        with pytest.raises(Failed) as failure:
            attempt.refuse_deadly("slow")
        assert failure.value.reason == "timed_out"
    attempt.finish({})
    Attempt(run, 0).refuse_deadly("slow")


def test_a_shard_whose_rows_held_the_process_is_run_carefully_at_once(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    attempt = Attempt(run, 0)
    attempt.suspect()
    attempt.end_alone()
    for kept in (3, 5):
        attempt = Attempt(run, 0)
        attempt.keep(kept)
        assert attempt.is_careful
    attempt.finish({})
    assert not Attempt(run, 0).is_careful


def test_a_finished_shard_starts_anew(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(4):
        Attempt(run, 0).start_alone("poison")
    attempt = Attempt(run, 0)
    attempt.finish({"rows": 3})
    notes = json.loads(Path(run.stats(0)).read_text())
    assert notes == {"state": "done", "attempt": 5, "rows": 3}
    again = Attempt(run, 0)
    assert again.number == 1 and not again.is_blamed("poison")


def test_half_written_notes_of_another_kind_are_ignored(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    Path(run.stats(0)).parent.mkdir()
    Path(run.stats(0)).write_text("[1, 2")
    assert Attempt(run, 0).number == 1


def test_a_shard_that_gets_further_with_each_attempt_is_not_suspected(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for kept in (0, 3, 5, 8, 11):
        attempt = Attempt(run, 0)
        attempt.keep(kept)
        assert not attempt.is_careful
    assert attempt.number == 5
    for _ in range(2):
        attempt = Attempt(run, 0)
        attempt.keep(11)
    assert attempt.is_careful, "nothing was gained by the last two"
