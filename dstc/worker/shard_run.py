"""State of a shard at work: its rows, its progress, its timings."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dstc.store.part_facts import PartFacts, with_facts
from dstc.store.results import (
    Outcome,
    outcome_table,
    save_rows_so_far,
)
from dstc.store.row_digests import Digests
from dstc.store.run_folder import RunFolder
from dstc.text import describe
from dstc.worker.attempts import Attempt
from dstc.worker.earlier_rows import EarlierRows
from dstc.worker.prometheus import ActorMetrics

log = logging.getLogger(__name__)

# One small file for each shard at work; more often would cost more requests than it saves rows.
SAVE_EVERY_S = 30.0


_PHASES = ("fetch", "queue", "translate", "write")


@dataclass(eq=False)
class ShardRun:
    """State of one call of an actor: the shard's rows, progress and timings."""

    number: int
    order: int
    folder: str
    attempt: Attempt
    duplicate_of: dict[int, int]
    first_row: int
    metrics: ActorMetrics
    digests: Digests | None = None
    so_far: Callable[[int, pa.Table], pa.Table] = lambda shard, outcomes: outcomes
    started: float = field(default_factory=time.time)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ended: int = 0
    flagged: Mapping[int, Outcome] = field(default_factory=dict)
    has_saved: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    _shard_rows: int = 0
    _kept: pa.Table = None
    _kept_places: Sequence[int] = ()
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _saved_outcomes: int = 0
    _saved_at: float = field(default_factory=time.monotonic)
    _may_save: bool = False

    def rows_wanted(self, rows: int, limit: int | None) -> int:
        """Of the shard's rows, those to translate: `--limit` may cut the last shard."""
        return rows if limit is None else max(0, min(rows, limit - self.first_row))

    def start(self, shard_rows: int, before: EarlierRows) -> None:
        """So many rows of the manifest, and the outcomes that stand already."""
        with self.lock:
            self._shard_rows = shard_rows
            self._kept, self._kept_places = before.kept, before.places
            self.flagged, self.has_saved = before.flagged, before.has_saved
            self._may_save = True

    def end_row(self, offset: int, outcome: Outcome) -> None:
        """A row has ended."""
        with self.lock:
            self._outcomes[offset] = outcome
        self.metrics.row_ended(outcome.status, outcome.reason)
        samples = outcome.samples or ()
        self.metrics.row_restarts(outcome.restarts + sum(sample.restarts for sample in samples))

    def save(self, run: RunFolder, at_once: bool = False) -> None:
        """Keeps the rows that have ended, when it is time, or `at_once`, and there are new ones."""
        with self.lock:
            is_due = at_once or time.monotonic() - self._saved_at >= SAVE_EVERY_S
            if not (self._may_save and is_due) or len(self._outcomes) == self._saved_outcomes:
                return
            outcomes = dict(self._outcomes)
            self._saved_at, self._saved_outcomes = time.monotonic(), len(outcomes)
            self.has_saved = True
        offsets = list(outcomes)
        rows = pa.concat_tables([self._kept, outcome_table([outcomes[o] for o in offsets])])
        rows = self.so_far(self.number, rows)
        places = [*self._kept_places, *offsets]
        save_rows_so_far(run, self.number, self.with_facts(rows, places), places)

    def with_facts(self, rows: pa.Table, places: Sequence[int]) -> pa.Table:
        """Result rows, and which attempt made them from which manifest rows.

        Args:
            places: of the rows, in the shard.
        """
        digests = None if self.digests is None else self.digests[list(places)]
        return with_facts(rows, PartFacts(self.attempt.ordinal, digests, self._shard_rows))

    def note_end(self, run: RunFolder, held: Sequence[tuple[int, str]]) -> None:
        """Before the process ends itself: keeps the rows that have ended, and notes what held it.

        Args:
            held: rows that may have, of all shards at work, as (order, id).

        Raises:
            OSError, OutputError: storage does not answer.
        """
        mine = [row_id for order, row_id in held if order == self.order]
        if mine and len(held) == 1:
            self.attempt.give_up(*mine)
        elif mine:
            self.attempt.suspect()
        self.attempt.end_alone()
        self.save(run, at_once=True)

    def stop_saving(self) -> bool:
        """No file of rows so far from here on; whether there is one."""
        with self.lock:
            self._may_save = False
            return self.has_saved

    def spend(self, phase: str, seconds: float) -> None:
        with self.lock:
            self.seconds[phase] += seconds
        self.metrics.spend(phase, seconds)

    def count(self, rows: int) -> int:
        """So many more rows have ended; how many have in all."""
        with self.lock:
            self.ended += rows
            return self.ended

    def stats(self, results: pa.Table) -> dict[str, Any]:
        statuses = results.column("status").to_pylist()
        now = time.time()
        return {
            "rows": results.num_rows,
            "status": dict(Counter(statuses)),
            "reasons": dict(Counter(filter(None, results.column("reason").to_pylist()))),
            "started": round(self.started, 3),
            "ended": round(now, 3),
            "seconds": {
                "shard": round(now - self.started, 3),
                **{phase: round(self.seconds[phase], 3) for phase in _PHASES},
            },
        }


def note_end(shards: Sequence[ShardRun], run: RunFolder, held: Sequence[tuple[int, str]]) -> None:
    """`ShardRun.note_end` of all shards at work; what cannot be noted does not keep the process."""
    for shard in list(shards):
        try:
            shard.note_end(run, held)
        except Exception as error:
            log.warning("shard %d: end not noted: %s", shard.number, describe(error))


class Clock:
    """Books the time since the last lap to a phase of the shard."""

    def __init__(self, shard: ShardRun) -> None:
        self._shard = shard
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self._shard.spend(phase, now - self._last)
        self._last = now
