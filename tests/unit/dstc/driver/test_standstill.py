from __future__ import annotations

import dataclasses

import pytest

from dstc.driver.standstill import Standstill
from dstc.planning.settings import make_settings
from dstc.store.ledger import Counts
from dstc.worker.row_count import RowCount, Snapshot, Work

COUNTS: Counts = {"done": {None: 1}}
STILL = RowCount().snapshot()


@pytest.mark.parametrize(
    "moved",
    [
        dataclasses.replace(STILL, rows=1),
        dataclasses.replace(STILL, work=Work(done=0.2)),
        dataclasses.replace(STILL, commits=[(0, COUNTS)]),
        dataclasses.replace(STILL, starts=1),
        dataclasses.replace(STILL, workers_seen=1),
    ],
    ids=["row", "step", "part", "start", "process"],
)
def test_whatever_moves_begins_the_time_anew(moved: Snapshot) -> None:
    standstill = Standstill(100, 0)
    assert not standstill.is_over(STILL, 60)
    assert not standstill.is_over(moved, 150)
    assert not standstill.is_over(moved, 240)
    assert standstill.is_over(moved, 251)


def test_parts_that_were_acknowledged_still_count() -> None:
    standstill = Standstill(100, 0)
    count = RowCount()
    count.commit(0, COUNTS)
    assert not standstill.is_over(count.snapshot(), 50)
    assert not standstill.is_over(count.snapshot(1), 149)
    assert standstill.is_over(count.snapshot(1), 151)


@pytest.mark.parametrize(
    ("values", "deadline", "standstill"),
    [
        ({"rows_per_shard": 4, "slots": 4}, 3600, 7200),
        ({}, 4800, 9600),
        ({"samples_per_row": 4}, 4800, 38400),
        ({"slots": 32}, 19200, 38400),
        ({"row_deadline": 60, "rows_per_shard": 4}, 60, 3600),
    ],
)
def test_a_row_is_beyond_its_deadline_before_its_job_stands_still(
    values: dict[str, object], deadline: float, standstill: float
) -> None:
    settings = make_settings(manifest="m", output="o", **values)
    assert (settings.row_deadline_s, settings.standstill_s) == (deadline, standstill)
