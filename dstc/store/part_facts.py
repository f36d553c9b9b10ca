"""What a result part says of itself: which attempt wrote it, and digests of its manifest rows.

It stands in the schema's metadata, so it goes with the rows from the actor that translated them
through Ray's write task into the Parquet file. Parts of before 0.1.0 say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from dstc.store.row_digests import Digests, digest_shards, pack_digests, unpack_digests

_ATTEMPT = b"dstc.attempt"
_DIGESTS = b"dstc.row_digests"
_SHARD_ROWS = b"dstc.shard_rows"


@dataclass(frozen=True, eq=False)
class PartFacts:
    """What a part says of itself.

    Attributes:
        attempt: of all attempts at the shard, which wrote it, counted from 1; 0 when unknown.
        digests: (N,) of the manifest row of each row (`row_digests`); None when unknown.
        shard_rows: of the shard in the manifest, those beyond a limit included; 0 when unknown.
    """

    attempt: int = 0
    digests: Digests | None = None
    shard_rows: int = 0

    @property
    def digest(self) -> int:
        """One number over all digests; 0 when unknown."""
        return 0 if self.digests is None else digest_shards(self.digests, len(self.digests))[0]


def with_facts(rows: pa.Table, facts: PartFacts) -> pa.Table:
    """The rows with what their part is to say of itself."""
    metadata = {
        **(rows.schema.metadata or {}),
        _ATTEMPT: str(facts.attempt).encode(),
        _SHARD_ROWS: str(facts.shard_rows).encode(),
    }
    if facts.digests is not None:
        metadata[_DIGESTS] = pack_digests(facts.digests)
    return rows.replace_schema_metadata(metadata)


def facts_in(schema: pa.Schema, rows: int) -> PartFacts:
    """What a part of so many rows says of itself; what makes no sense is as good as not said."""
    metadata = schema.metadata or {}
    try:
        attempt = int(metadata.get(_ATTEMPT, b"0"))
        shard_rows = int(metadata.get(_SHARD_ROWS, b"0"))
        digests = unpack_digests(metadata[_DIGESTS]) if _DIGESTS in metadata else None
    except ValueError:
        return PartFacts()
    if digests is not None and len(digests) != rows:
        digests = None
    return PartFacts(attempt, digests, shard_rows)
