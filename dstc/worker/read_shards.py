"""The Ray datasource: reads the shards that are not done yet, in read tasks of Ray Data."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from dstc.errors import ManifestError
from dstc.store import retries, urls
from dstc.store.duplicates import Duplicates
from dstc.store.manifest import Manifest, Shard, ShardGroup, open_parquet
from dstc.store.packed_rows import pack_rows
from dstc.worker.named_rows import naming_rows

# Rows decoded at a time while a reader looks for its shards; keeps manifests with heavy extra
# columns out of memory.
_READ_ROWS = 1024


def read_shards(shards: Iterable[Shard], schema: pa.Schema) -> Iterator[tuple[Shard, pa.Table]]:
    """Reads shards of one file in one go.

    Args:
        shards: ascending, all of the same file.
        schema: of the manifest; rows come in it, known columns normalised.

    Raises:
        ManifestError: the file cannot be read any more, or is another now.
    """
    waiting = deque(shards)
    file = waiting[0].file
    with open_parquet(file.uri, file.name, retries.STEADY) as (parquet, _):
        if parquet.metadata.num_rows != file.rows:
            raise ManifestError(
                f"manifest file {file.name}: found {parquet.metadata.num_rows} rows; expected the "
                f"{file.rows} it had when the run was planned"
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
        for batch in parquet.iter_batches(
            _READ_ROWS, row_groups=list(range(first_group, last_group + 1))
        ):
            stop = row + batch.num_rows
            while waiting and waiting[0].start < stop:
                shard = waiting[0]
                low = max(shard.start - row, 0)
                parts.append(batch.slice(low, min(shard.stop, stop) - row - low))
                if shard.stop > stop:
                    break
                yield shard, pa.Table.from_batches(parts).select(schema.names).cast(schema)
                parts = []
                waiting.popleft()
            row = stop
            if not waiting:
                return
    assert not waiting, f"{file.name} ended before shard {waiting[0].number}"


SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("folder", pa.string()),
        ("first_row", pa.int64()),
        ("duplicates", pa.list_(pa.list_(pa.int64()))),
        ("rows", pa.large_binary()),
    ]
)
"""How a shard travels through Ray Data: as ONE row.

Ray merges and splits blocks of rows by their size and by `batch_size`. A single row it can neither
merge (`batch_size=1`) nor split, so one call of the actor is always one whole shard, and every
column keeps its type. `folder` is what relative URIs start at; `duplicates` are (row, first row)
pairs; `rows` is an Arrow stream.
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
                _Read(group, self._manifest.schema, self._duplicates_in(group)),
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
    duplicates: Duplicates

    def __call__(self) -> Iterable[Block]:
        first, last = self.group[0], self.group[-1]
        with naming_rows(first.first_row, last.first_row + last.rows - first.first_row):
            yield from self._blocks()

    def _blocks(self) -> Iterable[Block]:
        for shard, rows in read_shards(self.group, self.schema):
            duplicates = self.duplicates.within(shard.first_row, shard.first_row + shard.rows)
            yield pa.table(
                {
                    "shard": [shard.number],
                    "folder": [urls.parent(shard.file.uri)],
                    "first_row": [shard.first_row],
                    "duplicates": [duplicates],
                    "rows": [pack_rows(rows)],
                },
                schema=SHARD_SCHEMA,
            )
