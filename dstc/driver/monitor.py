"""Progress monitor of the driver: polls the run, keeps the ledger and `progress.json`.

One thread asks the `RowCount` actor, another writes to storage, so that a storage that stalls does
not stop the bar. Nothing that fails here fails the run, but for one thing: actors that die again
and again before they can do anything.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

from dstc.driver.lease import Lease
from dstc.driver.pace import Pace, PaceMeter
from dstc.driver.run_gauges import DriverMetrics
from dstc.driver.standstill import Standstill
from dstc.errors import JobError
from dstc.store import storage
from dstc.store.ledger import flagged_reasons, made_by
from dstc.text import duration, redact
from dstc.worker.row_count import Snapshot
from dstc_engine.errors import DstcError, UserError

if TYPE_CHECKING:
    from dstc.planning.plan import Plan
    from dstc.planning.workers import Workers

log = logging.getLogger(__name__)

_POLL_EVERY_S = 1.0  # at half of that, the driver took 4 % of a core
# Of processes in a row while they load, with no actor at work: more do not end otherwise.
_DEATHS_WHILE_LOADING = 3
_PROGRESS_EVERY_S = 15.0
_LEDGER_EVERY_S = 60.0


class Monitor:
    """Monitors a run in threads beside the pipeline, inside its `with` block.

    Args:
        plan: of the run. workers: its actors.
        row_count: a `RowCount` actor.
        lease: taken; files are left alone once it is lost.
        interrupt: ends the run as Ctrl-C would.

    Attributes:
        fault: why the run cannot go on; None while it can.
    """

    def __init__(
        self,
        plan: Plan,
        workers: Workers,
        row_count: Any,
        lease: Lease,
        interrupt: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._workers = workers
        self._ledger = plan.ledger
        self._row_count = row_count
        self._lease = lease
        self._interrupt = interrupt
        self._started = time.time()
        self._snapshot: Snapshot | None = None
        self._commits = 0
        self._meter = PaceMeter(plan.manifest.rows, plan.rows_done)
        self._standstill = Standstill(plan.settings.standstill_s, time.monotonic())
        self._has_stopped = False
        self._stop = threading.Event()
        self._metrics = DriverMetrics(plan.job.run_id)
        self._threads = [
            threading.Thread(target=self._poll, name="poll", daemon=True),
            threading.Thread(target=self._keep, name="keep", daemon=True),
        ]
        self.fault: DstcError | None = None

    def __enter__(self) -> Monitor:
        self._show()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)  # a storage that stalls may not hold a driver that was told to end
        self._pollce()
        if kind is None:
            with contextlib.suppress(OSError):
                # The last parts' words may still be on their way; the parts are there.
                self._ledger.complete(self._plan.job.run.part_sizes())
        self._show()
        state = "finished" if kind is None else "broken"
        if kind is not None and issubclass(kind, KeyboardInterrupt) and not self.fault:
            state = "stopped"
        self._save_quietly(state)

    @property
    def actors_wanted(self) -> int:
        """Actors that the run starts with, and keeps at least."""
        return self._workers.fewest

    @property
    def actors_needed(self) -> int:
        """Actors that the shards left still need; Ray lets actors without a shard go."""
        shards_left = self._plan.manifest.shards - len(self._ledger)
        held = self._plan.settings.shards_at_once + 1  # by an actor, one of them in line
        return min(self._workers.fewest, math.ceil(shards_left / held))

    @property
    def snapshot(self) -> Snapshot | None:
        """The latest state of the run, or None before the first."""
        return self._snapshot

    @property
    def pace(self) -> Pace:
        """Progress and rate of the run at this moment."""
        return self._meter.pace

    # -- the two threads -------------------------------------------------------------------------

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_EVERY_S):
            self._pollce()
            self._show()
            is_hopeless = self._snapshot is not None and self._are_actors_hopeless(self._snapshot)
            if self._snapshot is not None and is_hopeless:
                self.fault = JobError(
                    f"{self._snapshot.starts} processes in a row ended while they loaded their "
                    "networks, without an exception: look for memory that is too small, and into "
                    "Ray's worker logs"
                )
            # What a person has to mend is told now, not after Ray has tried it some times more.
            if is_hopeless or self._has_stopped or isinstance(self.fault, UserError):
                self._interrupt()
                return

    def _pollce(self) -> None:
        try:
            snapshot = ray.get(self._row_count.snapshot.remote(self._commits), timeout=5)
        except Exception:  # of Ray, in many types; a count that does not answer is no harm
            return
        self.fault = self.fault or snapshot.fault
        for shard, counts, digest in snapshot.commits:
            self._ledger.record(shard, counts, digest)
        self._commits = snapshot.commits_before + len(snapshot.commits)
        self._meter.take(snapshot, time.monotonic())
        if self._standstill.is_over(snapshot, time.monotonic()):
            self._has_stopped = True
            self.fault = self.fault or JobError(
                "nothing has moved for "
                f"{duration(self._plan.settings.standstill_s)}: no row ended, no step was taken, "
                "no process started: look for nodes that the cluster lacks, and into Ray's logs"
            )
        self._snapshot = snapshot

    def _show(self) -> None:
        snapshot, plan = self._snapshot, self._plan
        self._metrics.show(
            rows=plan.manifest.rows,
            rows_ended=self.pace.rows_ended,
            shards=plan.manifest.shards,
            shards_done=len(self._ledger),
            actors_wanted=self._workers.fewest,
            actors_at_most=self._workers.actors,
            actors_running=snapshot.workers if snapshot else 0,
            actor_starts=snapshot.workers_seen if snapshot else 0,
        )

    def _keep(self) -> None:
        saved = written = time.monotonic()
        self._write_progress("running")
        while not self._stop.wait(1.0):
            if self._lease.is_lost:
                return  # the files are another driver's now
            now = time.monotonic()
            if now - written >= _PROGRESS_EVERY_S:
                written = now
                self._write_progress("running")
            if now - saved >= _LEDGER_EVERY_S:
                saved = now
                self._save_ledger()

    def _are_actors_hopeless(self, snapshot: Snapshot) -> bool:
        # Ray starts a dead actor again for ever, and Ray Data's own limit counts only the deaths
        # that Ray does not mend. As many as there are actors may be loading at this moment.
        return (
            not snapshot.workers and snapshot.starts > self._workers.actors + _DEATHS_WHILE_LOADING
        )

    # -- what is written -------------------------------------------------------------------------

    def _save_quietly(self, state: str) -> None:
        if self._lease.is_lost:
            return  # the files are another driver's now
        self._save_ledger()
        self._write_progress(state)

    def _save_ledger(self) -> None:
        try:
            self._ledger.save()
        except OSError as error:
            log.warning("ledger not saved: %s", redact(str(error)))

    def _write_progress(self, state: str) -> None:
        text = json.dumps(self._record(state), indent=2)
        try:
            storage.write_bytes(self._plan.job.run.progress, text.encode() + b"\n")
        except OSError as error:
            log.warning("progress not written: %s", redact(str(error)))

    def _record(self, state: str) -> dict[str, Any]:
        snapshot, pace, plan = self._snapshot, self.pace, self._plan
        totals = self._ledger.totals()
        rejected = totals.get("rejected", Counter())
        failed = totals.get("failed", Counter())
        flagged = flagged_reasons(totals)
        occupancy = snapshot.occupancy if snapshot else None
        return {
            "run_id": plan.job.run_id,
            "state": state,
            **({"stage": "translate"} if plan.settings.pilot is not None else {}),
            "started": round(self._started, 3),
            "updated": round(time.time(), 3),
            "driver": {"host": socket.gethostname(), "pid": os.getpid()},
            "rows": plan.manifest.rows,
            "rows_ended": pace.rows_ended,
            "shards": plan.manifest.shards,
            "shards_done": len(self._ledger),
            "done": sum(totals["done"].values()),
            "rejected": sum(rejected.values()),
            "failed": sum(failed.values()),
            "rejected_reasons": {str(reason): rows for reason, rows in rejected.items()},
            "failed_reasons": {str(reason): rows for reason, rows in failed.items()},
            "flagged": sum(flagged.values()),
            "flagged_reasons": flagged,
            "made_by": made_by(totals),
            "rate": round(pace.rate, 4) if pace.rate else None,
            "seconds_left": round(pace.seconds_left, 1) if pace.seconds_left is not None else None,
            "actors_wanted": self._workers.fewest,
            "actors_at_most": self._workers.actors,
            "actors_running": snapshot.workers if snapshot else 0,
            "actors_seen": snapshot.workers_seen if snapshot else 0,
            "occupancy": round(occupancy, 4) if occupancy is not None else None,
        }
