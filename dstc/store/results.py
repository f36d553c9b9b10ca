"""Results: one row for each manifest row, one Parquet part for each shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.store import retries, storage
from dstc.store.fencing import with_epoch, write_fenced
from dstc.store.packed_rows import pack_rows, unpack_rows
from dstc.store.run_folder import RunFolder
from dstc_engine.losses import LOSS_NAMES

if TYPE_CHECKING:
    from dstc_engine.request import StepLosses

DONE, REJECTED, FAILED = "done", "rejected", "failed"
STATUSES = (DONE, REJECTED, FAILED)

_OFFSETS = b"dstc.offsets"

# What an image tells of itself; its `losses` follow.
_IMAGE_FIELDS = (
    pa.field("image", pa.string()),
    pa.field("image_sha256", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("steps", pa.int32()),
    pa.field("restarts", pa.int32()),
    pa.field("seconds", pa.float64()),
    pa.field("slots", pa.int32()),
)
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
_SAMPLES_FIELD = pa.field(
    "samples",
    pa.list_(pa.struct([pa.field("sample", pa.int32()), *_IMAGE_FIELDS, _LOSSES_FIELD])),
)
# What a result row adds to its manifest row; `losses` and `samples` follow.
_FIELDS = (
    pa.field("status", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("error", pa.string()),
    *_IMAGE_FIELDS,
    pa.field("flagged", pa.string()),
    pa.field("retries", pa.int32()),
)
RESERVED_COLUMNS = frozenset([*(f.name for f in _FIELDS), "losses", "samples"]) - {"seed"}


@dataclass(frozen=True)
class Sample:
    """A further image of a row.

    Attributes:
        sample: its number, 1 or more; the row's own columns tell of image 0.
        image: path of the image, relative to the run folder. image_sha256: over its bytes.
        seed: derived from the row's seed and the number.
        steps, restarts, seconds, slots, losses: as in `Translation`.
    """

    sample: int
    image: str
    image_sha256: str
    seed: int
    steps: int
    restarts: int
    seconds: float
    slots: int
    losses: Sequence[StepLosses]


@dataclass(frozen=True)
class Outcome:
    """How one row ended.

    Attributes:
        status: "done", "rejected" (the row itself is at fault) or "failed" (may be retried).
        reason: short and countable unless done. error: the whole text.
        image: path of the image, relative to the run folder. image_sha256: over its bytes.
        seed: given or derived; None when the row was rejected before it had one.
        steps, restarts, seconds, slots, losses: as in `Translation`.
        flagged: names of the gates that the image fails; None when it passes all there are.
        retries: other seeds tried since, whether their images were kept or not.
        samples: further images of a row that is done; None where no more than one is asked for.
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
    slots: int = 0
    flagged: str | None = None
    retries: int = 0
    losses: Sequence[StepLosses] = field(default_factory=list)
    samples: Sequence[Sample] | None = None


def result_schema(manifest: pa.Schema) -> pa.Schema:
    """All columns of the manifest, then those of the result; `seed`, known to both, once."""
    own = [column for column in manifest if column.name != "seed"]
    return pa.schema([*own, *_FIELDS, _LOSSES_FIELD, _SAMPLES_FIELD])


def result_table(rows: pa.Table, outcomes: Sequence[Outcome]) -> pa.Table:
    """Manifest rows and their outcomes, in the same order, as result rows."""
    assert rows.num_rows == len(outcomes), f"{rows.num_rows} rows, {len(outcomes)} outcomes"
    own = [rows.column(name) for name in rows.schema.names if name != "seed"]
    added = [
        pa.array([getattr(outcome, column.name) for outcome in outcomes], column.type)
        for column in _FIELDS
    ]
    losses = pa.array([_losses(outcome) for outcome in outcomes], _LOSSES_FIELD.type)
    samples = pa.array([_samples(outcome) for outcome in outcomes], _SAMPLES_FIELD.type)
    return pa.Table.from_arrays([*own, *added, losses, samples], schema=result_schema(rows.schema))


def _losses(of: Outcome | Sample) -> list[dict[str, object]]:
    return [{"index": step.index, "phase": step.phase, **step.losses} for step in of.losses]


def _samples(outcome: Outcome) -> list[dict[str, object]] | None:
    if outcome.samples is None:
        return None
    return [
        {
            "sample": sample.sample,
            **{column.name: getattr(sample, column.name) for column in _IMAGE_FIELDS},
            "losses": _losses(sample),
        }
        for sample in outcome.samples
    ]


def read_outcome(row: Mapping[str, Any]) -> Outcome:
    """The outcome that a result row holds: the inverse of `result_table`."""
    values = {column.name: row[column.name] for column in _FIELDS}
    samples = row["samples"]
    return Outcome(
        **values,
        losses=_read_losses(row["losses"]),
        samples=samples
        and [Sample(**{**sample, "losses": _read_losses(sample["losses"])}) for sample in samples],
    )


def _read_losses(steps: Sequence[Mapping[str, Any]]) -> list[StepLosses]:
    from dstc_engine.request import StepLosses

    return [
        StepLosses(
            step["index"],
            step["phase"],
            {name: step[name] for name in LOSS_NAMES if step[name] is not None},
        )
        for step in steps
    ]


def write_part(run: RunFolder, shard: int, rows: pa.Table, epoch: int = 0) -> None:
    """Writes a shard's part whole; its images must be there already.

    Args:
        epoch: of the driver whose part it is, see `fencing`.

    Raises:
        OutputError: storage takes no results any more, or the run is another driver's by now.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(with_epoch(rows, epoch), sink, compression="zstd")
    with storage.writing_output(run.part(shard)):
        write_fenced(run.part(shard), sink.getvalue().to_pybytes(), epoch)


def save_rows_so_far(run: RunFolder, shard: int, rows: pa.Table, offsets: Sequence[int]) -> None:
    """Keeps the rows that have ended of a shard at work, in case its process dies.

    Args:
        rows: result rows. offsets: for each, its place in the shard.

    Raises:
        OSError: storage does not answer.
    """
    places = json.dumps(list(offsets)).encode()
    data = pack_rows(rows.replace_schema_metadata({_OFFSETS: places}))
    storage.write_bytes(run.rows_so_far(shard), data)


def read_rows_so_far(run: RunFolder, shard: int) -> tuple[pa.Table, list[int]] | None:
    """The rows that `save_rows_so_far` kept last, or None."""
    try:
        data = storage.read_bytes(run.rows_so_far(shard), retries.STEADY)
        rows = unpack_rows(data)
        offsets = json.loads(rows.schema.metadata[_OFFSETS])
    except (FileNotFoundError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None
    return rows.replace_schema_metadata(None), offsets


def read_part(
    run: RunFolder,
    shard: int,
    columns: Sequence[str] | None = None,
    patience: retries.Patience = retries.PROMPT,
) -> pa.Table:
    """The result rows of a shard that is done.

    Raises:
        FileNotFoundError: it is not done.
    """
    data = pa.BufferReader(storage.read_bytes(run.part(shard), patience))
    return pq.read_table(data, columns=None if columns is None else list(columns))
