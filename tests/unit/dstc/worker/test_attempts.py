from __future__ import annotations

import json
from pathlib import Path

from dstc.store.run_folder import RunFolder
from dstc.worker.attempts import Attempt


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
