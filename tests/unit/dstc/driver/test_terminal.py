"""Text of the progress line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dstc.driver.pace import Pace
from dstc.driver.terminal import progress_text
from dstc.worker.row_count import Snapshot, Work

SNAPSHOT = Snapshot(
    rows=0,
    rows_kept=0,
    work=Work(),
    actors_at_work=2,
    commits=[],
    commits_before=0,
    workers=2,
    workers_seen=2,
    starts=0,
    fault=None,
    occupancy=1.0,
)
BEGUN = Pace(rows_ended=0, rows_done=0.0, rate=None, seconds_left=None)


def snapshot(**changes: Any) -> Snapshot:
    return dataclasses.replace(SNAPSHOT, **changes)


@pytest.mark.parametrize(
    ("pace", "seen", "said"),
    [
        (BEGUN, None, "0/8 rows (0.0%), starting 2 actors"),
        (
            BEGUN,
            snapshot(workers=0, workers_seen=0, starts=2),
            "0/8 rows (0.0%), starting 2 actors",
        ),
        (BEGUN, snapshot(actors_at_work=0), "0/8 rows (0.0%), started"),
        (Pace(0, 0.75, None, None), SNAPSHOT, "0/8 rows (9.3%), first rows under way"),
        (Pace(4, 5.5, 0.0533, 46.9), SNAPSHOT, "4/8 rows (68.7%), 0.053 row/s, 47 s left"),
        (
            Pace(4, 5.5, 0.5, 5.0),
            snapshot(workers=1),
            "4/8 rows (68.7%), 0.50 row/s, 5 s left, 1 of 2 actors",
        ),
        (
            Pace(4, 4.0, None, None),
            snapshot(workers=0),
            "4/8 rows (50.0%), no word from the actors for some seconds",
        ),
        # All but a hair is not all.
        (Pace(7, 7.9999, 0.05, 0.0), SNAPSHOT, "7/8 rows (99.9%), 0.050 row/s, 0 s left"),
        (Pace(8, 8.0, 0.05, 0.0), snapshot(workers=0), "8/8 rows (100.0%), 0.050 row/s"),
        (Pace(8, 8.0, None, None), snapshot(workers=0), "8/8 rows (100.0%)"),
    ],
)
def test_a_line_says_what_is_known(pace: Pace, seen: Snapshot | None, said: str) -> None:
    is_over = pace.rows_ended == 8
    assert progress_text(8, pace, seen, 2, 0 if is_over else 2) == said


def test_actors_that_the_last_shards_do_not_need_are_not_missed() -> None:
    pace = Pace(4, 5.5, 0.5, 5.0)
    assert "actors" not in progress_text(8, pace, snapshot(workers=1), 2, 1)


def test_one_actor_is_one_actor() -> None:
    assert progress_text(8, BEGUN, None, 1, 1).endswith("starting 1 actor")
