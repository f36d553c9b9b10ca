"""What the results of a run hold, counted part by part; rows are never all in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.store import storage
from jobs.store.results import DONE, FAILED, REJECTED
from jobs.store.run_folder import RunFolder

# Rows by status that are named one by one, and rows that a reason is shown with.
MAX_MISSES = 50
_EXAMPLES = 3
_THREADS = 8
_COUNT_ROWS, _READ_ROWS = 1 << 16, 256
_COUNTED = ("id", "status", "reason", "error", "content")


@dataclass(frozen=True)
class Miss:
    """A row without a picture: its id, how it ended, and why."""

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
    """What was counted.

    Attributes:
        rows: in all parts. counts: by status.
        parts: (shard, rows) of each part, ascending.
        reasons: by (status, reason). misses: the first rows of each status but done.
        unreadable: what is wrong with each part that could not be read.
    """

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    parts: list[tuple[int, int]] = field(default_factory=list)
    reasons: dict[tuple[str, str], Reason] = field(default_factory=dict)
    misses: dict[str, list[Miss]] = field(default_factory=lambda: {FAILED: [], REJECTED: []})
    unreadable: list[str] = field(default_factory=list)

    def named_misses(self) -> list[Miss]:
        """At most `MAX_MISSES` rows, those that may be tried again first."""
        return [*self.misses[FAILED], *self.misses[REJECTED]][:MAX_MISSES]


def count_rows(run: RunFolder, shards: Sequence[int]) -> Tally:
    """Counts the rows of some parts by status and reason."""
    tally = Tally()
    with ThreadPoolExecutor(_THREADS) as pool:
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


def _count_part(run: RunFolder, shard: int) -> _Part | str:
    def count() -> _Part:
        part = _Part()
        with _open_part(run, shard) as parquet:
            names = [name for name in _COUNTED if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(_COUNT_ROWS, columns=names):
                _count_batch(part, batch)
        return part

    try:
        return storage.with_retries(count)
    except Exception as error:  # one broken part may not take the page down
        told = storage.redact(f"{type(error).__name__}: {error}")
        return f"{run.part(shard).rpartition('/')[2]}: {told}"


def _count_batch(part: _Part, batch: pa.RecordBatch) -> None:
    status = batch.column("status")
    for entry in pc.value_counts(status).to_pylist():
        part.counts[str(entry["values"])] += entry["counts"]
    others = batch.filter(pc.fill_null(pc.not_equal(status, DONE), True))
    seen = Counter[str]()
    for start in range(0, others.num_rows, 1024):
        for values in others.slice(start, 1024).to_pylist():
            miss = Miss(
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


def _text(value: object) -> str:
    return "" if value is None else storage.redact(str(value))


def spread_rows(run: RunFolder, tally: Tally, most: int) -> list[dict[str, Any]]:
    """At most `most` result rows, evenly spread over all that were counted, in their order.

    Columns of bytes or of nested values other than lists are left out, but for the losses and, but
    for theirs, the samples.
    """
    shown = min(most, tally.rows)
    wanted = [number * tally.rows // shown for number in range(shown)]
    by_part: list[tuple[int, list[int]]] = []
    first, next_wanted = 0, 0
    for shard, rows in tally.parts:
        offsets = []
        while next_wanted < shown and wanted[next_wanted] < first + rows:
            offsets.append(wanted[next_wanted] - first)
            next_wanted += 1
        if offsets:
            by_part.append((shard, offsets))
        first += rows
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda part: _read_rows(run, *part), by_part)
        return [row for rows in found for row in rows]


def _read_rows(run: RunFolder, shard: int, offsets: Sequence[int]) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        with _open_part(run, shard) as parquet:
            names = [name for field in parquet.schema_arrow for name in _shown_of(field)]
            start = 0
            for batch in parquet.iter_batches(_READ_ROWS, columns=names):
                here = [o - start for o in offsets if start <= o < start + batch.num_rows]
                rows += batch.take(pa.array(here, pa.int64())).to_pylist()
                start += batch.num_rows
                if start > offsets[-1]:
                    break
        return [{**row, "shard": shard} for row in rows]

    try:
        return storage.with_retries(read)
    except Exception:  # it was there when it was counted; the page shows what can be read
        return []


def _shown_of(field: pa.Field) -> list[str]:
    """What is read of a column."""
    if field.name == "samples":
        # Without the losses: of hundreds of samples they would fill the memory.
        return [f"samples.list.element.{name}" for name in ("sample", "seed", "image")]
    return [field.name] if _is_shown(field) else []


def _is_shown(field: pa.Field) -> bool:
    kind = field.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return field.name == "losses" or not (is_bytes or pa.types.is_nested(kind))


@contextmanager
def _open_part(run: RunFolder, shard: int) -> Iterator[pq.ParquetFile]:
    """Opened where it lies: of large parts only the columns asked for are fetched."""
    filesystem, path = storage.open_filesystem(run.part(shard))
    with filesystem.open(path, "rb") as raw, pq.ParquetFile(raw, pre_buffer=False) as parquet:
        yield parquet
