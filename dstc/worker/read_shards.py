"""The Ray datasource: reads the shards that are not done yet, in read tasks of Ray Data."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from dstc.errors import ManifestError
from dstc.store import retries
from dstc.store.column_names import name_in_file
from dstc.store.duplicates import Duplicates
from dstc.store.footers import how_it_changed
from dstc.store.manifest import (
    Manifest,
    ManifestFile,
    Shard,
    ShardGroup,
    as_planned,
    open_parquet,
)
from dstc.store.packed_rows import pack_rows
from dstc.store.row_digests import digest_rows, pack_digests
from dstc.store.row_order import GatheredShard
from dstc.worker.named_rows import naming_rows

# Rows decoded at a time while a reader looks for its shards; keeps manifests with heavy extra
# columns out of memory.
_READ_ROWS = 1024
# Rows of the known columns in memory where a whole manifest is read: some 20 MB of texts.
ROWS_AT_ONCE = 1 << 16


def read_shards(shards: Iterable[Shard], schema: pa.Schema) -> Iterator[tuple[Shard, pa.Table]]:
    """Reads shards, each file in one go.

    Args:
        shards: ascending, all of the same file; or all gathered, which come as they are complete.
        schema: of the manifest; rows come in it, in as many chunks as they were read in, since
            Arrow counts the text of a chunk in 32 bits.

    Raises:
        ManifestError: a file cannot be read any more, or is another now.
    """
    shards = list(shards)
    if not isinstance(shards[0], GatheredShard):
        yield from _read_of_one_file(shards, schema)
        return
    gathered = {shard.number: shard for shard in shards if isinstance(shard, GatheredShard)}
    pieces = sorted(
        (piece for shard in gathered.values() for piece in shard.pieces),
        key=lambda piece: piece.first_row,
    )
    # Rows that came in between leave at most one shard of each append incomplete at a time.
    found: dict[int, dict[int, pa.Table]] = {}
    for _, of_file in itertools.groupby(pieces, key=lambda piece: piece.file.first_row):
        for piece, rows in _read_of_one_file(of_file, schema):
            parts, shard = found.setdefault(piece.number, {}), gathered[piece.number]
            parts[piece.first_row] = rows
            if len(parts) == len(shard.pieces):
                yield shard, pa.concat_tables([parts[piece.first_row] for piece in shard.pieces])
                del found[piece.number]


def read_file(file: ManifestFile, schema: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
    """All rows of a file, `ROWS_AT_ONCE` at a time, with the number of each table's first row.

    Args:
        schema: of the manifest, or of some of its columns.

    Raises:
        ManifestError: as `read_shards`.
    """
    pieces = [
        Shard(number, file, start, min(start + ROWS_AT_ONCE, file.rows))
        for number, start in enumerate(range(0, file.rows, ROWS_AT_ONCE))
    ]
    for piece, rows in read_shards(pieces, schema):
        yield piece.first_row, rows


def _read_of_one_file(
    shards: Iterable[Shard], schema: pa.Schema
) -> Iterator[tuple[Shard, pa.Table]]:
    waiting = deque(shards)
    file = waiting[0].file
    with open_parquet(file.uri, file.name, retries.STEADY) as (parquet, raw):
        planned = file.rows, file.size, file.footer_sha256
        if fault := how_it_changed(parquet, raw, *planned):
            raise ManifestError(
                f"manifest file {file.name}: found {fault}, as it had when the run was planned: it "
                "was replaced while the run read it. Bring back the file that the run began with, "
                "or give another output folder"
            )
        groups = [
            parquet.metadata.row_group(index).num_rows
            for index in range(parquet.metadata.num_row_groups)
        ]
        ends = list(itertools.accumulate(groups))
        first_group = bisect_right(ends, waiting[0].start)
        last_group = bisect_right(ends, waiting[-1].stop - 1)
        row = ends[first_group] - groups[first_group]
        parts: list[pa.RecordBatch] = []
        wanted = {name_in_file(file.columns, name) for name in schema.names}
        for batch in _read_batches(
            parquet,
            list(range(first_group, last_group + 1)),
            partial(as_planned, file=file, schema=schema),
            [name for name in parquet.schema_arrow.names if name in wanted],
        ):
            stop = row + batch.num_rows
            while waiting and waiting[0].start < stop:
                shard = waiting[0]
                low = max(shard.start - row, 0)
                parts.append(batch.slice(low, min(shard.stop, stop) - row - low))
                if shard.stop > stop:
                    break
                yield shard, pa.Table.from_batches(parts, schema)
                parts = []
                waiting.popleft()
            row = stop
            if not waiting:
                return
    assert not waiting, f"{file.name} ended before shard {waiting[0].number}"


def _read_batches(
    parquet: pq.ParquetFile,
    groups: Sequence[int],
    planned: Callable[[pa.RecordBatch], pa.RecordBatch],
    columns: Sequence[str],
    most: int = _READ_ROWS,
    skip: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Rows of some row groups, without the first `skip`; in smaller batches where Arrow needs it.

    It cannot read a list of dictionaries over row groups, each of which has a dictionary of its
    own, nor a list with more than 2 GB of text in a batch.
    """
    row = 0
    try:
        for batch in parquet.iter_batches(most, row_groups=list(groups), columns=columns):
            row += batch.num_rows
            if row > skip:
                yield planned(batch.slice(max(0, skip - row + batch.num_rows)))
                skip = row
        return
    except (pa.ArrowException, MemoryError):
        if len(groups) == most == 1:
            raise
    if len(groups) > 1:
        for group in groups:
            rows = parquet.metadata.row_group(group).num_rows
            if skip < rows:
                yield from _read_batches(parquet, [group], planned, columns, most, skip)
            skip = max(0, skip - rows)
    else:
        yield from _read_batches(parquet, groups, planned, columns, max(1, most // 32), skip)


SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("folder", pa.string()),
        ("first_row", pa.int64()),
        ("duplicates", pa.list_(pa.list_(pa.int64()))),
        ("rows", pa.large_binary()),
        ("digests", pa.binary()),
    ]
)
"""How a shard travels through Ray Data: as ONE row.

Ray merges and splits blocks of rows by their size and by `batch_size`. A single row it can neither
merge (`batch_size=1`) nor split, so one call of the actor is always one whole shard, and every
column keeps its type. `folder` is what relative URIs start at; `duplicates` are (row, first row)
pairs; `rows` is an Arrow stream; `digests` are those of the rows (`row_digests.pack_digests`).
"""


class ManifestShards(Datasource):
    """Ray Data source of the shards that are not done yet, one block of one row each.

    Args:
        manifest: the plan.
        pending: numbers of the shards to read, ascending.
        duplicates: of the whole manifest.
    """

    def __init__(self, manifest: Manifest, pending: Sequence[int], duplicates: Duplicates) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._manifest = manifest
        self._pending = pending
        self._duplicates = duplicates

    @cached_property
    def reads(self) -> list[ShardGroup]:
        """Shards by read task."""
        return list(self._manifest.groups(self._pending))

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: footers tell bytes of columns, not of rows."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for each of `reads`, whatever parallelism Ray would like."""
        return [
            ReadTask(
                _Read(
                    group, self._manifest.schema, self._manifest.folder, self._duplicates_in(group)
                ),
                BlockMetadata(
                    num_rows=len(group), size_bytes=None, input_files=None, exec_stats=None
                ),
                schema=SHARD_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for group in self.reads
        ]

    def _duplicates_in(self, group: ShardGroup) -> Duplicates:
        last = group[-1]
        return self._duplicates.between(group[0].first_row, last.first_row + last.rows)


@dataclass(frozen=True)
class _Read:
    group: ShardGroup
    schema: pa.Schema
    folder: str
    duplicates: Duplicates

    def __call__(self) -> Iterable[Block]:
        first, last = self.group[0], self.group[-1]
        with naming_rows(first.first_row, last.first_row + last.rows - first.first_row):
            yield from self._blocks()

    def _blocks(self) -> Iterable[Block]:
        # Whole shards, also where a limit cuts the last: its other rows may have results to keep.
        for shard, rows in read_shards(self.group.whole(), self.schema):
            duplicates = self.duplicates.within(shard.first_row, shard.first_row + shard.rows)
            yield pa.table(
                {
                    "shard": [shard.number],
                    "folder": [self.folder],
                    "first_row": [shard.first_row],
                    "duplicates": [duplicates],
                    "rows": [pack_rows(rows)],
                    "digests": [pack_digests(digest_rows(rows))],
                },
                schema=SHARD_SCHEMA,
            )
