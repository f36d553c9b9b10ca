"""State of a shard at work: its rows, its progress, its timings."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dstc.store.part_facts import PartFacts, with_facts
from dstc.store.results import (
    Outcome,
    result_table,
    save_rows_so_far,
)
from dstc.store.row_digests import Digests
from dstc.store.run_folder import RunFolder
from dstc.worker.attempts import Attempt
from dstc.worker.earlier_rows import EarlierRows
from dstc.worker.prometheus import ActorMetrics

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
    started: float = field(default_factory=time.time)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ended: int = 0
    flagged: Mapping[int, Outcome] = field(default_factory=dict)
    has_saved: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    _rows: pa.Table = None
    _kept: pa.Table = None
    _kept_places: Sequence[int] = ()
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _saved_outcomes: int = 0
    _saved_at: float = field(default_factory=time.monotonic)
    _may_save: bool = False

    def rows_wanted(self, rows: int, limit: int | None) -> int:
        """Of the shard's rows, those to translate: `--limit` may cut the last shard."""
        return rows if limit is None else max(0, min(rows, limit - self.first_row))

    def start(self, rows: pa.Table, before: EarlierRows) -> None:
        """The shard's manifest rows, and the result rows that stand already."""
        with self.lock:
            self._rows, self._kept, self._kept_places = rows, before.kept, before.places
            self.flagged, self.has_saved = before.flagged, before.has_saved
            self._may_save = True

    def end_row(self, offset: int, outcome: Outcome) -> None:
        """A row has ended."""
        with self.lock:
            self._outcomes[offset] = outcome
        self.metrics.row_ended(outcome.status, outcome.reason)
        samples = outcome.samples or ()
        self.metrics.row_restarts(outcome.restarts + sum(sample.restarts for sample in samples))

    def save(self, run: RunFolder) -> None:
        """Keeps the rows that have ended, when it is time and there are new ones."""
        with self.lock:
            is_due = time.monotonic() - self._saved_at >= SAVE_EVERY_S
            if not (self._may_save and is_due) or len(self._outcomes) == self._saved_outcomes:
                return
            outcomes = dict(self._outcomes)
            self._saved_at, self._saved_outcomes = time.monotonic(), len(outcomes)
            self.has_saved = True
        offsets = list(outcomes)
        new = result_table(
            self._rows.take(pa.array(offsets, pa.int64())), [outcomes[o] for o in offsets]
        )
        places = [*self._kept_places, *offsets]
        rows = self.with_facts(pa.concat_tables([self._kept, new]), places)
        save_rows_so_far(run, self.number, rows, places)

    def with_facts(self, rows: pa.Table, places: Sequence[int]) -> pa.Table:
        """Result rows, and which attempt made them from which manifest rows.

        Args:
            places: of the rows, in the shard.
        """
        digests = None if self.digests is None else self.digests[list(places)]
        return with_facts(rows, PartFacts(self.attempt.ordinal, digests, self._rows.num_rows))

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


class Clock:
    """Books the time since the last lap to a phase of the shard."""

    def __init__(self, shard: ShardRun) -> None:
        self._shard = shard
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self._shard.spend(phase, now - self._last)
        self._last = now
