"""Row counts of a run by status and reason, part by part; rows are never all in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from dstc.reporting.flags import FLAGGED, flags_of, has_flags
from dstc.reporting.parts import THREADS, Place, open_part
from dstc.store import retries
from dstc.store.cells import read_records, texts
from dstc.store.results import DONE, FAILED, REJECTED
from dstc.store.run_folder import RunFolder
from dstc.text import describe, redact

# Rows by status that are named one by one, and rows that a reason is shown with.
MAX_MISSES = 50
_EXAMPLES = 3
_COUNT_ROWS = 1 << 16
_COUNTED = ("id", "status", "reason", "error", "content")


@dataclass(frozen=True)
class Miss:
    """A row without an image: where it is, its id, how it ended, and why."""

    place: Place
    id: str
    status: str
    reason: str
    error: str
    content: str


@dataclass
class Reason:
    """Rows that ended with one status for one reason; the first few as examples."""

    status: str
    reason: str
    count: int = 0
    examples: list[Miss] = field(default_factory=list)


@dataclass
class Tally:
    """Row counts of a run.

    Attributes:
        rows: in all parts. counts: by status.
        parts: (shard, rows) of each part, ascending.
        reasons: by (status, reason). misses: the first rows of each status but done.
        flagged: rows with a flag; None where the results have no such column. flags: by flag.
        flag_examples: the first rows with each flag.
        unreadable: what is wrong with each part that could not be read.
    """

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    parts: list[tuple[int, int]] = field(default_factory=list)
    reasons: dict[tuple[str, str], Reason] = field(default_factory=dict)
    misses: dict[str, list[Miss]] = field(default_factory=lambda: {FAILED: [], REJECTED: []})
    flagged: int | None = None
    flags: Counter[str] = field(default_factory=Counter)
    flag_examples: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    unreadable: list[str] = field(default_factory=list)

    def named_misses(self) -> list[Miss]:
        """At most `MAX_MISSES` rows, those that may be tried again first."""
        return [*self.misses[FAILED], *self.misses[REJECTED]][:MAX_MISSES]


def count_rows(run: RunFolder, shards: Sequence[int]) -> Tally:
    """Counts the rows of some parts by status and reason."""
    tally = Tally()
    with ThreadPoolExecutor(THREADS) as pool:
        counted = pool.map(lambda shard: _count_part(run, shard), shards)
        for shard, part in zip(shards, counted, strict=True):
            if isinstance(part, str):
                tally.unreadable.append(part)
            else:
                _add(tally, shard, part)
    return tally


@dataclass
class _Part:
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    misses: list[Miss] = field(default_factory=list)
    flagged: int | None = None
    flags: Counter[str] = field(default_factory=Counter)
    flag_examples: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))


def _add(tally: Tally, shard: int, part: _Part) -> None:
    rows = part.counts.total()
    tally.parts.append((shard, rows))
    tally.rows += rows
    tally.counts.update(part.counts)
    for (status, name), count in part.reasons.items():
        reason = tally.reasons.setdefault((status, name), Reason(status, name))
        reason.count += count
    for miss in part.misses:
        examples = tally.reasons[miss.status, miss.reason].examples
        if len(examples) < _EXAMPLES:
            examples.append(miss)
        named = tally.misses.setdefault(miss.status, [])
        if len(named) < MAX_MISSES:
            named.append(miss)
    if part.flagged is not None:
        tally.flagged = (tally.flagged or 0) + part.flagged
    tally.flags.update(part.flags)
    for flag, places in part.flag_examples.items():
        known = tally.flag_examples[flag]
        known += places[: _EXAMPLES - len(known)]


def _count_part(run: RunFolder, shard: int) -> _Part | str:
    def count() -> _Part:
        part = _Part()
        with open_part(run, shard) as parquet:
            schema = parquet.schema_arrow
            names = [name for name in _COUNTED if name in schema.names]
            if has_flags(schema):
                names.append(FLAGGED)
                part.flagged = 0
            first = 0
            for batch in parquet.iter_batches(_COUNT_ROWS, columns=names):
                _count_batch(part, batch, shard, first)
                if part.flagged is not None:
                    _count_flags(part, batch.column(FLAGGED), shard, first)
                first += batch.num_rows
        return part

    try:
        return retries.with_retries(count)
    except Exception as error:  # one broken part may not take the page down
        reason = describe(error)
        return f"{run.part(shard).rpartition('/')[2]}: {reason}"


def _count_batch(part: _Part, batch: pa.RecordBatch, shard: int, first: int) -> None:
    status = batch.column("status")
    for entry in pc.value_counts(status).to_pylist():
        part.counts[str(entry["values"])] += entry["counts"]
    offsets = pc.indices_nonzero(pc.fill_null(pc.not_equal(status, DONE), True))
    seen = Counter[str]()
    for start in range(0, len(offsets), 1024):
        here = offsets.slice(start, 1024)
        records = map(texts, read_records(batch.take(here)))
        for offset, values in zip(here.to_pylist(), records, strict=True):
            miss = Miss(
                place=(shard, first + offset),
                id=_text(values.get("id")),
                status=str(values["status"]),
                reason=_text(values.get("reason")) or "unknown",
                error=_text(values.get("error")),
                content=_text(values.get("content")),
            )
            part.reasons[miss.status, miss.reason] += 1
            # Each reason brings its examples, however many rows of another come before.
            seen[miss.reason] += 1
            if len(part.misses) < MAX_MISSES or seen[miss.reason] <= _EXAMPLES:
                part.misses.append(miss)


def _count_flags(part: _Part, column: pa.Array, shard: int, first: int) -> None:
    for entry in pc.value_counts(column.drop_null()).to_pylist():
        text, rows = str(entry["values"]), entry["counts"]
        flags = flags_of(text)
        part.flagged = (part.flagged or 0) + (rows if flags else 0)
        for flag in flags:
            part.flags[flag] += rows
            known = part.flag_examples[flag]
            if len(known) < _EXAMPLES:
                offsets = pc.indices_nonzero(pc.equal(column, text)).slice(0, _EXAMPLES)
                known += [(shard, first + offset) for offset in offsets.to_pylist()]


def _text(value: object) -> str:
    return "" if value is None else redact(str(value))
