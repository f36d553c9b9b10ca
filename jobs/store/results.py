"""Results: one row for each manifest row, one Parquet part for each shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from dstc_engine.losses import LOSS_NAMES
from jobs.store import storage
from jobs.store.manifest import unpack_rows
from jobs.store.run_folder import RunFolder

if TYPE_CHECKING:
    from dstc_engine.request import StepLosses

DONE, REJECTED, FAILED = "done", "rejected", "failed"
STATUSES = (DONE, REJECTED, FAILED)

# What a result row adds to its manifest row; `losses` follow.
_FIELDS = (
    pa.field("status", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("error", pa.string()),
    pa.field("image", pa.string()),
    pa.field("image_sha256", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("steps", pa.int32()),
    pa.field("restarts", pa.int32()),
    pa.field("seconds", pa.float64()),
)
RESERVED_COLUMNS = frozenset([column.name for column in _FIELDS] + ["losses"]) - {"seed"}


_LOSSES_FIELD = pa.field(
    "losses",
    pa.list_(
        pa.struct(
            [
                pa.field("index", pa.int32()),
                pa.field("phase", pa.string()),
                *(pa.field(name, pa.float32()) for name in LOSS_NAMES),
            ]
        )
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How one row ended.

    Attributes:
        status: "done", "rejected" (the row itself is at fault) or "failed" (may be retried).
        reason: short and countable unless done. error: the whole text.
        image: path of the picture, relative to the run folder. image_sha256: over its bytes.
        seed: given or derived; None when the row was rejected before it had one.
        steps, restarts, seconds, losses: as in `Translation`.
    """

    status: str
    reason: str | None = None
    error: str | None = None
    image: str | None = None
    image_sha256: str | None = None
    seed: int | None = None
    steps: int = 0
    restarts: int = 0
    seconds: float = 0.0
    losses: Sequence[StepLosses] = field(default_factory=list)


def result_schema(manifest: pa.Schema) -> pa.Schema:
    """All columns of the manifest, then those of the result; `seed`, known to both, once."""
    own = [column for column in manifest if column.name != "seed"]
    return pa.schema([*own, *_FIELDS, _LOSSES_FIELD])


def result_table(rows: pa.Table, outcomes: Sequence[Outcome]) -> pa.Table:
    """Manifest rows and their outcomes, in the same order, as result rows."""
    assert rows.num_rows == len(outcomes), f"{rows.num_rows} rows, {len(outcomes)} outcomes"
    own = [rows.column(name) for name in rows.schema.names if name != "seed"]
    added = [
        pa.array([getattr(outcome, column.name) for outcome in outcomes], column.type)
        for column in _FIELDS
    ]
    losses = [
        [{"index": step.index, "phase": step.phase, **step.losses} for step in outcome.losses]
        for outcome in outcomes
    ]
    return pa.Table.from_arrays(
        [*own, *added, pa.array(losses, _LOSSES_FIELD.type)], schema=result_schema(rows.schema)
    )


OUTPUT_SCHEMA = pa.schema([("shard", pa.int64()), ("rows", pa.large_binary())])
"""How the results of a shard travel through Ray Data: as one row (see `manifest.SHARD_SCHEMA`)."""


class ResultParts(Datasink[int]):
    """Ray Data sink: one part file for each shard, under a name that the shard alone decides.

    A shard that Ray runs twice is written twice under one name, with the same rows.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def write(self, blocks: Iterable[Block], ctx: object) -> int:
        """Writes the parts of some shards; the number of rows written."""
        written = 0
        for block in blocks:
            for record in BlockAccessor.for_block(block).to_arrow().to_pylist():
                rows = unpack_rows(record["rows"])
                write_part(self._run, record["shard"], rows)
                written += rows.num_rows
        return written


def write_part(run: RunFolder, shard: int, rows: pa.Table) -> None:
    """Writes a shard's part whole; its images must be there already."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    storage.write_bytes(run.part(shard), sink.getvalue().to_pybytes())


def read_part(run: RunFolder, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The result rows of a shard that is done.

    Raises:
        FileNotFoundError: it is not done.
    """
    data = pa.BufferReader(storage.read_bytes(run.part(shard)))
    return pq.read_table(data, columns=None if columns is None else list(columns))
