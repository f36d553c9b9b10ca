"""Digests of manifest rows, by which a result is known to be of the row that stands there now.

A row's digest is 64 bits over the columns that DSTC knows: enough to see that a prompt was swapped,
no defense against somebody who forges one. A hundred thousand rows take some 0.1 s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dstc.store.cells import BadCell, read_cell
from dstc.store.duplicates import hash_ids
from dstc.text import shown

Digests = npt.NDArray[np.uint64]

KNOWN_COLUMNS = ("id", "content", "style", "prompt", "source_prompt", "mask", "seed")

# Odd, so that multiplying by them loses nothing: 2^64 over the golden ratio, and a prime of xxHash.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PLACE = np.uint64(0xC2B2AE3D27D4EB4F)
_HALF = np.uint64(32)
_OF_NULL = np.uint64(0x27D4EB2F165667C5)


def digest_rows(rows: pa.Table) -> Digests:
    """(N,) a digest of each manifest row; extra columns do not count.

    A column that is missing counts as one of nulls. Strings count by their bytes, whatever type
    holds them, so files of one manifest may differ in it.

    Example:
        >>> one, other = digest_rows(pa.table({"id": ["a", "a"], "prompt": ["x", "y"]}))
        >>> bool(one != other)
        True
    """
    digests = np.zeros(rows.num_rows, np.uint64)
    for name in KNOWN_COLUMNS:
        of_column = (
            _hash_values(rows.column(name))
            if name in rows.schema.names
            else np.full(rows.num_rows, _OF_NULL, np.uint64)
        )
        digests = _mixed((digests ^ of_column) * _MULTIPLIER)
    return digests


def digest_shards(digests: Digests, rows_per_shard: int) -> list[int]:
    """One digest for each `rows_per_shard` rows, the last of which may be fewer; none is 0.

    Args:
        digests: (N,) of rows, the first of which is the first of its shard.
    """
    starts = np.arange(0, len(digests), rows_per_shard)
    return digest_parts(digests, np.minimum(rows_per_shard, len(digests) - starts))


def digest_parts(digests: Digests, counts: npt.NDArray[np.int64]) -> list[int]:
    """One digest for each part of so many rows, one part after the other; none is 0.

    Args:
        digests: (N,) of rows. counts: (P,) of rows in each part, 1 or more; N in all.
    """
    if not len(counts):
        return []
    starts = np.cumsum(counts) - counts
    places = (np.arange(len(digests)) - np.repeat(starts, counts)).astype(np.uint64) + np.uint64(1)
    placed = _mixed((digests ^ (places * _PLACE)) * _MULTIPLIER)
    sums = np.add.reduceat(placed, starts)
    # Signed, as Arrow's and NumPy's usual integers are; 0 says that nothing is known.
    return [int(found) or 1 for found in sums.view(np.int64)]


def pack_digests(digests: Digests) -> bytes:
    """As text that may stand in the metadata of a file."""
    return digests.astype(">u8").tobytes().hex().encode()


def unpack_digests(text: bytes) -> Digests:
    """The inverse of `pack_digests`.

    Raises:
        ValueError: it is no such text.
    """
    return np.frombuffer(bytes.fromhex(text.decode()), ">u8").astype(np.uint64)


def changed_rows(
    part: pa.Table, rows: pa.Table, digests: Digests, before: Digests | None
) -> list[int]:
    """Places of the result rows that are not of the manifest rows which stand there now.

    Args:
        part: (M,) result rows. rows: (N,) manifest rows. digests: (N,) of these.
        before: (M,) digests that the part holds; None for a part of before there were any, whose
            own columns are compared instead: all but `seed`, which may be derived.
    """
    if before is None:
        names = [name for name in KNOWN_COLUMNS if name != "seed"]
        before, digests = (
            digest_rows(table.select([name for name in names if name in table.schema.names]))
            for table in (part, rows)
        )
    shared = min(len(before), len(digests))
    return [int(place) for place in np.flatnonzero(before[:shared] != digests[:shared])]


def describe_change(there: pa.Table, here: pa.Table) -> str:
    """What differs between a result row and the manifest row in its place.

    Args:
        there: the result row. here: the manifest row; one row each.

    Returns:
        For example "row 'cat-7': prompt was 'a cat', and is 'a dog' now".
    """

    def value(rows: pa.Table, name: str) -> object:
        if name not in rows.schema.names:
            return None
        cell = read_cell(rows.column(name)[0])
        return cell.text if isinstance(cell, BadCell) else cell

    def quoted(value: object) -> str:
        return "empty" if value is None else repr(shown(value))

    # The seed of a result may be derived: where nothing else differs, it is the seed.
    names = [name for name in KNOWN_COLUMNS if name != "seed"]
    changes = [
        f"{name} was {quoted(value(there, name))}, and is {quoted(value(here, name))} now"
        for name in names
        if value(there, name) != value(here, name)
    ]
    return f"row {quoted(value(there, 'id'))}: {'; '.join(changes) or 'its seed changed'}"


def _mixed(values: Digests) -> Digests:
    return np.asarray(values ^ (values >> _HALF), np.uint64)


def _hash_values(column: pa.ChunkedArray) -> Digests:
    """(N,) a hash of each value; nulls all have the same."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind):
        return np.full(len(column), _OF_NULL, np.uint64)
    is_null = column.is_null().to_numpy()
    if pa.types.is_integer(kind):
        numbers = pc.fill_null(column, 0).to_numpy().astype(np.int64).view(np.uint64)
        hashes = _mixed((numbers ^ _PLACE) * _MULTIPLIER)
    else:
        hashes = np.concatenate(
            [np.empty(0, np.uint64), *(hash_ids(_as_text(chunk)) for chunk in column.chunks)]
        )
    return np.where(is_null, _OF_NULL, hashes)


def _as_text(values: pa.Array) -> pa.Array:
    """The values' bytes as one long text each; they need not be text."""
    try:
        data = values.cast(pa.large_binary())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        # A type that no known column has: its rows are rejected, and only told apart here.
        data = pa.array([repr(value).encode() for value in values.to_pylist()], pa.large_binary())
    return pa.Array.from_buffers(pa.large_string(), len(data), data.buffers(), offset=data.offset)
