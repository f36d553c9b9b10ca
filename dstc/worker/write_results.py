"""The Ray datasink: writes one part file for each shard, in write tasks of Ray Data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from dstc.store import storage, urls
from dstc.store.ledger import count_rows
from dstc.store.packed_rows import pack_rows, unpack_rows
from dstc.store.part_facts import facts_in
from dstc.store.results import write_part
from dstc.store.run_folder import RunFolder
from dstc.store.stored_names import files_named
from dstc.worker.row_count import blaming, tell

OUTPUT_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("rows", pa.large_binary()),
        ("has_rows_so_far", pa.bool_()),
        ("replaced", pa.list_(pa.string())),
    ]
)
"""How the results of a shard travel through Ray Data: as one row (see `read_shards.SHARD_SCHEMA`).

`has_rows_so_far`: there is a file of `save_rows_so_far` to be removed. `replaced`: so are these
containers of images, unless the part that stands names them.
"""


def output_of(
    shard: int, results: pa.Table, has_rows_so_far: bool, replaced: Sequence[str]
) -> pa.Table:
    """The results of a shard in OUTPUT_SCHEMA."""
    row = {
        "shard": [shard],
        "rows": [pack_rows(results)],
        "has_rows_so_far": [has_rows_so_far],
        "replaced": [list(replaced)],
    }
    return pa.table(row, schema=OUTPUT_SCHEMA)


class ResultParts(Datasink[int]):
    """Ray Data sink: one part file for each shard, under a name that the shard alone decides.

    A shard that Ray runs twice is written twice under one name, with the same rows.

    Args:
        run: whose parts. row_count: a `RowCount` actor to tell of them, or None.
        epoch: of the driver; a part of a newer one is not replaced.
    """

    def __init__(self, run: RunFolder, row_count: Any = None, epoch: int = 0) -> None:
        self._run = run
        self._epoch = epoch
        self._row_count = row_count

    def write(self, blocks: Iterable[Block], ctx: object) -> int:
        """Writes the parts of some shards; the number of rows written."""
        written = 0
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            packed = table.column("rows")
            for place, record in enumerate(table.drop_columns(["rows"]).to_pylist()):
                rows = unpack_rows(packed[place].as_buffer())
                with blaming(self._row_count):
                    standing = write_part(self._run, record["shard"], rows, self._epoch)
                digest = facts_in(standing.schema, standing.num_rows).digest
                tell(self._row_count, "commit", record["shard"], count_rows(standing), digest)
                if record["has_rows_so_far"]:
                    storage.remove(self._run.rows_so_far(record["shard"]))
                for name in _no_longer_named(record["replaced"], standing):
                    storage.remove(urls.join(self._run.uri, name))
                written += rows.num_rows
        return written


def _no_longer_named(replaced: Sequence[str], standing: pa.Table) -> set[str]:
    return set(replaced) - files_named(standing) if replaced else set()
