"""Counts of rows, work and actors of a running job, gathered by a small Ray actor.

Only for the eye and for the ledger's comfort: results never depend on it, and a lost word is not an
error, since parts say it all again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

from dstc.errors import JobError
from dstc.store.ledger import Counts, rows_in
from dstc.text import describe
from dstc_engine.errors import DstcError

# An actor says this often that it is there, and counts as gone after three silences.
BEAT_EVERY_S = 5.0
_GONE_AFTER_S = 16.0


@dataclass(frozen=True)
class Work:
    """What the engine of one actor did so far.

    Attributes:
        rows: that it translated, and that have ended.
        underway: what it did of rows that have not ended: 1.5 is three rows half done.
        done: what it did of all these after its first step. seconds: that took.
    """

    rows: int = 0
    underway: float = 0.0
    done: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The state of a run as its driver sees it.

    Attributes:
        rows: ended, those of shards at work included, and those kept from earlier invocations.
        rows_kept: of them, those.
        work: of all actors that ever were, less what was underway in those that are gone.
        actors_at_work: actors that are there and have taken a step.
        commits: (shard, counts, digest) of parts written, beginning behind those acknowledged.
        commits_before: how many were acknowledged.
        workers: actors that are there now. workers_seen: actors that ever were.
        starts: processes that began to load their networks since one last was done with it.
        fault: why a worker ends the job; None while none does.
        occupancy: share of busy slots over all actors since their last beat, 0 .. 1; None before
            any step.
    """

    rows: int
    rows_kept: int
    work: Work
    actors_at_work: int
    commits: list[tuple[int, Counts, int]]
    commits_before: int
    workers: int
    workers_seen: int
    starts: int
    fault: DstcError | None
    occupancy: float | None


class RowCount:
    """Counts rows by shard; one that is run again starts where it was, so no bar goes back."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._total = self._kept = 0
        self._commits: list[tuple[int, Counts, int]] = []
        self._acknowledged = 0
        self._unwritten: set[int] = set()  # shards
        # By worker: when it gave its last beat, its busy and all slots since the one before.
        self._workers: dict[str, tuple[float, int, int]] = {}
        self._work: dict[str, Work] = {}
        self._starts = 0
        self._fault: DstcError | None = None

    def tell(self, shard: int, rows: int, worker: str = "", work: Work | None = None) -> None:
        """So many rows of this shard have ended; at first, those kept from earlier invocations.

        Args:
            worker: names the process that runs the shard. work: its, at this moment.
        """
        if work is not None:
            self._work[worker] = work
        if shard not in self._rows:
            self._rows[shard] = 0
            self._kept += rows
        known = self._rows[shard]
        if rows > known:
            self._rows[shard] = rows
            self._total += rows - known

    def commit(self, shard: int, counts: Counts, digest: int = 0) -> None:
        """The part of a shard is written; `digest` as in `Ledger.record`."""
        self._unwritten.discard(shard)
        self.tell(shard, rows_in(counts))
        self._commits.append((shard, counts, digest))

    def end(self, shard: int) -> None:
        """All rows of a shard have ended, and its part is to be written."""
        self._unwritten.add(shard)

    def shards_ahead(self) -> float:
        """Shards whose parts are to be written, for each actor."""
        return len(self._unwritten) / max(1, len(self._there(time.monotonic())))

    def _there(self, now: float) -> dict[str, tuple[float, int, int]]:
        return {name: w for name, w in self._workers.items() if now - w[0] < _GONE_AFTER_S}

    def blame(self, fault: DstcError) -> None:
        """A worker cannot go on, and the job neither; the first to say so is believed."""
        self._fault = self._fault or fault

    def start(self) -> None:
        """A process begins to load its networks."""
        self._starts += 1

    def beat(self, worker: str, busy: int, slots: int, work: Work) -> None:
        """An actor is there, its networks loaded.

        Args:
            worker: names its process.
            busy, slots: its slots that held a row, and all of them, summed over the steps since it
                spoke before.
            work: at this moment.
        """
        if worker not in self._workers:
            self._starts = 0
        self._workers[worker] = time.monotonic(), busy, slots
        self._work[worker] = work

    def snapshot(self, acknowledged: int = 0) -> Snapshot:
        """The state of the run so far.

        Args:
            acknowledged: commits that the caller has, counted from the first.
        """
        del self._commits[: max(0, acknowledged - self._acknowledged)]
        self._acknowledged = max(self._acknowledged, acknowledged)
        there = self._there(time.monotonic())
        slots = sum(all_slots for _, _, all_slots in there.values())
        ever = self._work.values()
        at_work = [self._work[name] for name in there]
        underway = sum(work.underway for work in at_work)
        return Snapshot(
            rows=self._total,
            rows_kept=self._kept,
            work=Work(
                rows=sum(work.rows for work in ever),
                underway=underway,
                done=sum(work.done - work.underway for work in ever) + underway,
                seconds=sum(work.seconds for work in ever),
            ),
            actors_at_work=sum(work.seconds > 0 for work in at_work),
            commits=list(self._commits),
            commits_before=self._acknowledged,
            workers=len(there),
            workers_seen=len(self._workers),
            starts=self._starts,
            fault=self._fault,
            occupancy=sum(busy for _, busy, _ in there.values()) / slots if slots else None,
        )


def start_row_count() -> Any:
    """A `RowCount` actor beside the driver, so that it lives as long as the driver does."""
    node = ray.get_runtime_context().get_node_id()
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(RowCount).options(num_cpus=0, scheduling_strategy=place).remote()


def tell(row_count: Any, verb: str, *arguments: Any) -> None:
    """Tells the count without waiting; `row_count` may be None."""
    if row_count is not None:
        with contextlib.suppress(ray.exceptions.RayError):
            getattr(row_count, verb).remote(*arguments)


@contextlib.contextmanager
def blaming(row_count: Any) -> Iterator[None]:
    """Tells the count of an error of ours that leaves the block, and that ends the job.

    Ray hands an exception on without what caused it, so the driver would only hear of Ray's own.
    One that is no `Exception`, such as SystemExit, becomes a JobError: Ray would take the actor for
    one that left as planned, and wait for its rows.
    """
    try:
        try:
            yield
        except Exception:
            raise
        except BaseException as error:
            raise JobError(f"a worker cannot go on: {describe(error)}") from error
    except DstcError as error:
        if row_count is not None:
            with contextlib.suppress(Exception):  # of Ray, in many types
                ray.get(row_count.blame.remote(error), timeout=10)
        raise
