"""Fencing of result parts: a driver that lost its run cannot overwrite what its successor wrote.

Each driver that takes a run has an epoch, one more than the driver before. Every part carries the
epoch of its writer in its Parquet metadata. A write looks at the part that is there, gives way to a
newer epoch, and replaces just the part it looked at (`conditional.swap`).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import OutputError
from dstc.store import conditional, retries
from dstc.text import redact

_EPOCH = b"dstc.epoch"
# Of writers of one part at once there are two at most: Ray's second try, and a driver that lost.
_ATTEMPTS = 20


def with_epoch(rows: pa.Table, epoch: int) -> pa.Table:
    """Result rows that carry the epoch of the driver that has them written; 0 is none."""
    metadata = {**(rows.schema.metadata or {}), _EPOCH: str(epoch).encode()}
    return rows.replace_schema_metadata(metadata)


def epoch_of(part: bytes) -> int:
    """The epoch that a part carries; 0 where it carries none or cannot be read."""
    try:
        metadata = pq.read_schema(pa.BufferReader(part)).metadata or {}
        return int(metadata.get(_EPOCH, b"0"))
    except (pa.ArrowException, OSError, ValueError):
        return 0


def write_fenced(uri: str, data: bytes, epoch: int) -> None:
    """Writes a part whole, unless a driver of a newer epoch has written it.

    Args:
        uri: of the part. data: of it. epoch: that it carries.

    Raises:
        OutputError: the run is another driver's by now.
        OSError: storage did not answer for too long.
    """
    for _ in range(_ATTEMPTS):
        found = conditional.read(uri, retries.STEADY)
        if found is not None and (newer := epoch_of(found.data)) > epoch:
            raise OutputError(
                f"{redact(uri)} is not written: a driver that has taken over this run (epoch "
                f"{newer}; here {epoch}) wrote it already"
            )
        version = found.version if found is not None else None
        if conditional.swap(uri, data, version, retries.STEADY) is not None:
            return
    raise OSError(f"changed {_ATTEMPTS} times while it was to be written")
