"""Ways take turns evenly, with the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.engine_speed import Measured, main, take_turns
from benchmarks.ways import mixed_rows
from dstc_engine.request import TranslationRequest


class FakeWay:
    """Notes whom it translated, in a list that all ways share."""

    def __init__(self, slots: int, log: list[tuple[int, list[str]]]) -> None:
        self.slots, self._log = slots, log

    def translate(self, rows: Sequence[TranslationRequest]) -> dict[str, Any]:
        self._log.append((self.slots, [row.id for row in rows]))
        return {row.id: None for row in rows}


def test_all_ways_get_all_rows_and_stay_equally_far() -> None:
    rows = mixed_rows(8)
    log: list[tuple[int, list[str]]] = []
    ways: Any = [Measured(FakeWay(slots, log)) for slots in (0, 2, 4)]  # type: ignore[arg-type]
    for number in range(2):
        take_turns(ways, rows)
        assert all(len(way.wall) == len(way.cpu) == number + 1 for way in ways)
    half = len(log) // 2
    assert log[:half] == log[half:]
    done = {0: 0, 2: 0, 4: 0}
    for slots, names in log[:half]:
        assert names == [row.id for row in rows[done[slots] : done[slots] + max(1, slots)]]
        done[slots] += len(names)
        # No way is ahead of another by more than the pieces of both.
        assert max(done.values()) - min(done.values()) <= 4
    assert set(done.values()) == {8}


def test_rows_are_of_all_kinds_in_turn_and_apart() -> None:
    rows = mixed_rows(30)
    kinds = [(row.prompt is not None, row.style is not None) for row in rows]
    assert kinds == [(True, False), (False, True), (True, True)] * 10
    assert len({row.id for row in rows}) == len({row.seed for row in rows}) == 30
    # The demo has 24 rows; the 25th is the first again.
    assert rows[24].prompt == rows[0].prompt


def test_rows_that_leave_slots_empty_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["engine_speed", "--rows", "12", "--slots", "4", "8"])
    with pytest.raises(SystemExit):
        main()
    assert "--rows is 12; expected a multiple of all slots, not [8]" in capsys.readouterr().err
