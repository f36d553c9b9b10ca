from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from dstc.worker.backlog import wait_for_writers
from dstc.worker.row_count import RowCount, Work


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[RowCount, Any]:
    """A count, and what an actor holds of it."""
    count = RowCount()
    monkeypatch.setattr(ray, "get", lambda found, timeout: found)
    return count, SimpleNamespace(shards_ahead=SimpleNamespace(remote=count.shards_ahead))


def test_an_actor_waits_until_the_writers_have_come_near(counted: tuple[RowCount, Any]) -> None:
    count, handle = counted
    for worker in ("a", "b"):
        count.beat(worker, 0, 1, Work())
    for shard in range(40):
        count.end(shard)
    written = iter(range(40))

    def a_part_is_written(seconds: float) -> None:
        count.commit(next(written), {"done": {"": 16}})

    assert count.shards_ahead() == 20
    assert wait_for_writers(handle, a_part_is_written) == 8.0  # 32 shards for two actors are 16
    assert wait_for_writers(handle, a_part_is_written) == 0.0


def test_a_shard_that_runs_twice_waits_once(counted: tuple[RowCount, Any]) -> None:
    count, _ = counted
    count.end(3)
    count.end(3)
    assert count.shards_ahead() == 1
    count.commit(3, {"done": {"": 16}})
    count.commit(3, {"done": {"": 16}})
    assert count.shards_ahead() == 0


def test_writers_that_say_nothing_do_not_stop_the_job(counted: tuple[RowCount, Any]) -> None:
    count, handle = counted
    for shard in range(100):
        count.end(shard)
    assert wait_for_writers(handle, lambda seconds: None) == 600.0


def test_without_a_count_nothing_waits() -> None:
    def gone() -> None:
        raise ray.exceptions.RayActorError

    assert wait_for_writers(None) == 0.0
    handle = SimpleNamespace(shards_ahead=SimpleNamespace(remote=gone))
    assert wait_for_writers(handle) == 0.0


def test_rows_of_a_student_count_once() -> None:
    count = RowCount()
    count.tell(0, 15)
    count.commit(
        0, {"done": {None: 12, "range": 2}, "failed": {"x": 2}, "made_by": {"student": 14}}
    )
    assert count.snapshot().rows == 16
