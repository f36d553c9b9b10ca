"""Reading chosen rows of a run's result parts; the rows of a run are never all in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.store import retries, storage
from dstc.store.cells import read_records, texts
from dstc.store.manifest import TEXT_COLUMNS
from dstc.store.results import OUTCOME_SCHEMA
from dstc.store.run_folder import RunFolder

# A shard, and the number of a row in its part.
Place = tuple[int, int]
THREADS = 8
_READ_ROWS = 256
_KNOWN_COLUMNS = frozenset([*TEXT_COLUMNS, *OUTCOME_SCHEMA.names])


class Numbering:
    """Numbers the rows of all parts, 0 .. rows - 1, in the order of the parts.

    Args:
        parts: (shard, rows) of each part.
    """

    def __init__(self, parts: Sequence[tuple[int, int]]) -> None:
        self._shards = [shard for shard, _ in parts]
        self._ends = list(accumulate(rows for _, rows in parts))
        self._firsts = dict(zip(self._shards, [0, *self._ends], strict=False))
        self.rows = self._ends[-1] if parts else 0

    def number(self, place: Place) -> int:
        """Number of the row at a place."""
        return self._firsts[place[0]] + place[1]

    def place(self, number: int) -> Place:
        """Place of the row with a number."""
        shard = self._shards[bisect_right(self._ends, number)]
        return shard, number - self._firsts[shard]

    def spread(self, most: int) -> list[Place]:
        """At most `most` places, evenly spread, in order."""
        shown = min(most, self.rows)
        return [self.place(number * self.rows // shown) for number in range(shown)]


@contextmanager
def open_part(run: RunFolder, shard: int) -> Iterator[pq.ParquetFile]:
    """Opens a part where it lies: of large ones only the columns asked for are fetched."""
    filesystem, path = storage.open_filesystem(run.part(shard))
    with filesystem.open(path, "rb") as raw, pq.ParquetFile(raw, pre_buffer=False) as parquet:
        yield parquet


def read_rows(run: RunFolder, places: Sequence[Place]) -> list[dict[str, Any]]:
    """The result rows at some places, with their `shard` and their `offset` in its part.

    Columns of bytes or of nested values other than lists are left out, but for the losses, what
    gates saw and, but for their losses, the samples. Rows of a part that cannot be read any more
    are left out.

    Args:
        places: ascending.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda part: _read_rows(run, *part), by_part(places))
        return [row for rows in found for row in rows]


def by_part(places: Sequence[Place]) -> list[tuple[int, list[int]]]:
    """(shard, offsets) of places that are in order."""
    parts = groupby(places, key=lambda place: place[0])
    return [(shard, [offset for _, offset in of_shard]) for shard, of_shard in parts]


def _read_rows(run: RunFolder, shard: int, offsets: Sequence[int]) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        with open_part(run, shard) as parquet:
            schema = parquet.schema_arrow
            known = pa.schema([field for field in schema if field.name in _KNOWN_COLUMNS])
            try:
                rows = _read_shown(parquet, schema, offsets)
            except pa.ArrowException:  # an extra column, of a type that Arrow cannot read
                rows = _read_shown(parquet, known, offsets)
        return [{**r, "shard": shard, "offset": o} for r, o in zip(rows, offsets, strict=True)]

    try:
        return retries.with_retries(read)
    except Exception:  # it was there when it was counted; the page shows what can be read
        return []


def _read_shown(
    parquet: pq.ParquetFile, schema: pa.Schema, offsets: Sequence[int]
) -> list[dict[str, Any]]:
    names = [name for field in schema for name in _shown_of(field)]
    return [
        texts(record) for row in take_rows(parquet, names, offsets) for record in read_records(row)
    ]


def take_rows(
    parquet: pq.ParquetFile, names: Sequence[str], offsets: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    """Some rows of an open part, ascending, one by one; a few hundred are in memory at once."""
    start = 0
    for batch in parquet.iter_batches(_READ_ROWS, columns=list(names)):
        for offset in offsets:
            if start <= offset < start + batch.num_rows:
                yield batch.slice(offset - start, 1)
        start += batch.num_rows
        if start > offsets[-1]:
            return


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
    is_ours = field.name in ("losses", "gate_distances")
    return is_ours or not (is_bytes or pa.types.is_nested(kind))
