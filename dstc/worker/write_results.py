"""The Ray datasink: writes one part file for each shard, in write tasks of Ray Data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from dstc.store import storage
from dstc.store.ledger import count_rows
from dstc.store.packed_rows import unpack_rows
from dstc.store.results import write_part
from dstc.store.run_folder import RunFolder
from dstc.worker.row_count import blaming, tell

OUTPUT_SCHEMA = pa.schema(
    [("shard", pa.int64()), ("rows", pa.large_binary()), ("has_rows_so_far", pa.bool_())]
)
"""How the results of a shard travel through Ray Data: as one row (see `read_shards.SHARD_SCHEMA`).

`has_rows_so_far`: there is a file of `save_rows_so_far` to be removed.
"""


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
            for record in BlockAccessor.for_block(block).to_arrow().to_pylist():
                rows = unpack_rows(record["rows"])
                with blaming(self._row_count):
                    write_part(self._run, record["shard"], rows, self._epoch)
                tell(self._row_count, "commit", record["shard"], count_rows(rows))
                if record["has_rows_so_far"]:
                    storage.remove(self._run.rows_so_far(record["shard"]))
                written += rows.num_rows
        return written
