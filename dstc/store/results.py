"""Results: one row for each manifest row, one Parquet part for each shard."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import RunFolderError
from dstc.store import retries, storage
from dstc.store.fencing import with_epoch, write_fenced
from dstc.store.packed_rows import pack_rows, unpack_rows
from dstc.store.part_facts import facts_in
from dstc.store.run_folder import RunFolder
from dstc.text import describe
from dstc_engine.losses import LOSS_NAMES
from dstc_engine.student.distances import DISTANCES

if TYPE_CHECKING:
    from dstc_engine.request import StepLosses

log = logging.getLogger(__name__)

DONE, REJECTED, FAILED = "done", "rejected", "failed"
STATUSES = (DONE, REJECTED, FAILED)

_OFFSETS = b"dstc.offsets"
# Of the row groups of a part, about.
_GROUP_BYTES = 1 << 30


def _each(**fields: pa.DataType) -> pa.DataType:
    """One entry for each box, object or the like, in the order of the manifest."""
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields.items()]))


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
# What a result row adds to its manifest row; `losses`, `samples`, `_PLACED_FIELDS` and
# `_STUDENT_FIELDS` follow.
_FIELDS = (
    pa.field("status", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("error", pa.string()),
    *_IMAGE_FIELDS,
    pa.field("flagged", pa.string()),
    pa.field("retries", pa.int32()),
)
# Where the content lies in its image, and what the manifest said of the content, moved along. They
# came later: parts of earlier runs lack them.
_PLACED_FIELDS = (
    pa.field(
        "placement",
        pa.struct(
            [
                *(pa.field(name, pa.float64()) for name in ("scale_x", "scale_y")),
                *(pa.field(name, pa.float64()) for name in ("offset_x", "offset_y")),
                *(pa.field(f"content_{name}", pa.int32()) for name in ("width", "height")),
                *(pa.field(f"result_{name}", pa.int32()) for name in ("width", "height")),
                pa.field("orientation", pa.int32()),
                pa.field("fit", pa.string()),
            ]
        ),
    ),
    pa.field("result_boxes", _each(box=pa.list_(pa.float64()), inside=pa.float64())),
    pa.field("result_keypoints", _each(keypoints=pa.list_(pa.float64()), outside=pa.int32())),
    pa.field("result_masks", _each(polygons=pa.list_(pa.list_(pa.float64())), inside=pa.float64())),
    pa.field("result_mask", pa.string()),
    pa.field("result_mask_sha256", pa.string()),
)
# Of rows that a student had a part in; they came later still.
_STUDENT_FIELDS = (
    pa.field("made_by", pa.string()),
    pa.field("gate_distances", pa.struct([pa.field(name, pa.float32()) for name in DISTANCES])),
)
_LATER_FIELDS = (*_PLACED_FIELDS, *_STUDENT_FIELDS)
OUTCOME_SCHEMA = pa.schema([*_FIELDS, _LOSSES_FIELD, _SAMPLES_FIELD, *_LATER_FIELDS])
RESERVED_COLUMNS = frozenset(OUTCOME_SCHEMA.names) - {"seed"}


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
        placement: fields of `dstc_engine.placement.Placement`; None unless done, and where the
            engine made an image of another size than the preset's.
        result_boxes, result_keypoints, result_masks: what the manifest says of the content, in
            pixels of the image; None where nothing was asked for.
        result_mask: path of the labels' image, relative to the run folder. result_mask_sha256:
            over its bytes.
        made_by: "student" or "guided", of the image; None where no student had a part in the run.
        gate_distances: of a student's image, by the names of `student.distances.DISTANCES`.
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
    placement: Mapping[str, object] | None = None
    result_boxes: Sequence[Mapping[str, object]] | None = None
    result_keypoints: Sequence[Mapping[str, object]] | None = None
    result_masks: Sequence[Mapping[str, object]] | None = None
    result_mask: str | None = None
    result_mask_sha256: str | None = None
    made_by: str | None = None
    gate_distances: Mapping[str, float] | None = None


def result_schema(manifest: pa.Schema) -> pa.Schema:
    """All columns of the manifest, then those of the result; `seed`, known to both, once.

    A column of the manifest with the name of another result column gets `manifest_` before it.

    Example:
        >>> result_schema(pa.schema([("id", pa.string()), ("image", pa.string())])).names[:3]
        ['id', 'manifest_image', 'status']
    """
    own = [column for column in manifest if column.name != "seed"]
    taken = {*manifest.names, *OUTCOME_SCHEMA.names}
    renamed = []
    for column in own:
        name = column.name
        if name in RESERVED_COLUMNS:
            while name in taken:
                name = f"manifest_{name}"
            taken.add(name)
        renamed.append(column.with_name(name))
    return pa.schema([*renamed, *OUTCOME_SCHEMA])


def with_all_outcomes(rows: pa.Table) -> pa.Table:
    """Result rows in OUTCOME_SCHEMA; what those of an earlier version lack is null.

    Raises:
        ArrowException, KeyError, ValueError: they are of another version altogether.
    """
    for column in _LATER_FIELDS:
        if column.name not in rows.schema.names:
            rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
    return rows.select(OUTCOME_SCHEMA.names).cast(OUTCOME_SCHEMA)


def outcome_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """What result rows add to their manifest rows, in OUTCOME_SCHEMA."""
    added = [
        pa.array([getattr(outcome, column.name) for outcome in outcomes], column.type)
        for column in _FIELDS
    ]
    later = [
        pa.array([getattr(outcome, column.name) for outcome in outcomes], column.type)
        for column in _LATER_FIELDS
    ]
    losses = pa.array([_losses(outcome) for outcome in outcomes], _LOSSES_FIELD.type)
    samples = pa.array([_samples(outcome) for outcome in outcomes], _SAMPLES_FIELD.type)
    return pa.Table.from_arrays([*added, losses, samples, *later], schema=OUTCOME_SCHEMA)


def result_table(rows: pa.Table, outcomes: Sequence[Outcome] | pa.Table) -> pa.Table:
    """Manifest rows and their outcomes, in the same order, as result rows.

    Args:
        rows: (N,) their columns are taken as they are. outcomes: (N,) or of `outcome_table`.
    """
    added = outcomes if isinstance(outcomes, pa.Table) else outcome_table(outcomes)
    assert rows.num_rows == added.num_rows, f"{rows.num_rows} rows, {added.num_rows} outcomes"
    own = [rows.column(name) for name in rows.schema.names if name != "seed"]
    return pa.Table.from_arrays([*own, *added.columns], schema=result_schema(rows.schema))


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
    """The outcome that a row of `outcome_table` holds."""
    values = {column.name: row[column.name] for column in (*_FIELDS, *_LATER_FIELDS)}
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


def write_part(run: RunFolder, shard: int, rows: pa.Table, epoch: int = 0) -> pa.Table:
    """Writes a shard's part whole; its images must be there already.

    A part that holds more rows, or that a later attempt wrote, stays as it is: a writer that was
    thought dead may come late.

    Args:
        epoch: of the driver whose part it is, see `fencing`.

    Returns:
        The rows that the part holds now.

    Raises:
        OutputError: storage takes no results any more, or the run is another driver's by now.
    """
    standing = rows

    def stays(data: bytes) -> bool:
        nonlocal standing
        name = run.part_name(shard)
        try:
            there = parse_part(data, name, OUTCOME_SCHEMA.names)
        except RunFolderError as error:
            log.warning("%s; it is written anew", error)
            return False
        if fault := _why_it_stays(there, rows):
            log.warning("%s is not replaced: %s", name, fault)
            standing = there
        return fault is not None

    sink = pa.BufferOutputStream()
    # Of a list with more than 2 GB of text in a row group, Arrow writes what it cannot read.
    per_group = max(1, min(rows.num_rows, rows.num_rows * _GROUP_BYTES // max(1, rows.nbytes)))
    # With checksums, a byte that storage changes is an error of reading and not another result.
    pq.write_table(
        with_epoch(rows, epoch),
        sink,
        row_group_size=per_group,
        compression="zstd",
        write_page_checksum=True,
    )
    uri = run.part(shard)
    with storage.writing_output(uri):
        write_fenced(uri, sink.getvalue().to_pybytes(), epoch, stays)
    return standing


def _why_it_stays(standing: pa.Table, rows: pa.Table) -> str | None:
    there, here = (facts_in(table.schema, table.num_rows) for table in (standing, rows))
    is_beyond = 0 < here.shard_rows < standing.num_rows  # it holds rows twice, or of others
    if standing.num_rows > rows.num_rows and not is_beyond:
        return f"it holds {standing.num_rows} rows, and {rows.num_rows} were to be written"
    if here.attempt and there.attempt > here.attempt:
        return f"attempt {there.attempt} at the shard wrote it, and this was {here.attempt}"
    return None


def save_rows_so_far(run: RunFolder, shard: int, rows: pa.Table, offsets: Sequence[int]) -> None:
    """Keeps the rows that have ended of a shard at work, in case its process dies.

    Args:
        rows: of `outcome_table`. offsets: for each, its place in the shard.

    Raises:
        OSError: storage does not answer.
    """
    metadata = {**(rows.schema.metadata or {}), _OFFSETS: json.dumps(list(offsets)).encode()}
    data = pack_rows(rows.replace_schema_metadata(metadata))
    storage.write_bytes(run.rows_so_far(shard), data)


def read_rows_so_far(run: RunFolder, shard: int) -> tuple[pa.Table, list[int]] | None:
    """The rows that `save_rows_so_far` kept last, with their places in the shard, or None."""
    try:
        data = storage.read_bytes(run.rows_so_far(shard), retries.STEADY)
        rows = unpack_rows(data)
        metadata = dict(rows.schema.metadata)
        offsets = json.loads(metadata.pop(_OFFSETS))
    except (FileNotFoundError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None
    return rows.replace_schema_metadata(metadata), offsets


def read_part(
    run: RunFolder,
    shard: int,
    columns: Sequence[str] | None = None,
    patience: retries.Patience = retries.PROMPT,
) -> pa.Table:
    """The result rows of a shard that is done.

    Args:
        columns: those to read of those there are; extra ones may be of types that Arrow writes and
            cannot read.

    Raises:
        FileNotFoundError: it is not done.
        RunFolderError: the part is damaged; it counts as none.
    """
    data = storage.read_bytes(run.part(shard), patience)
    return parse_part(data, run.part_name(shard), columns)


def parse_part(data: bytes, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The result rows in the bytes of a part.

    Args:
        data: of the file. name: for errors. columns: of those it has; all by default.

    Raises:
        RunFolderError: the file was cut, or its bytes changed.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as part:
            has = part.schema_arrow.names
            return part.read(columns=None if columns is None else [c for c in columns if c in has])
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise RunFolderError(
            f"{name}: not a readable part ({len(data):,} bytes; {describe(error)}); it counts as "
            "missing, and the next `dstc translate` writes it again"
        ) from error


def part_columns(run: RunFolder, shard: int) -> list[str]:
    """Names of the columns of a shard's result rows.

    Raises:
        FileNotFoundError: it is not done.
    """
    return list(pq.read_schema(pa.BufferReader(storage.read_bytes(run.part(shard)))).names)
