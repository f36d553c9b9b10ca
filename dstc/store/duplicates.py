"""Ids that a manifest uses more than once, found without holding its ids.

One pass keeps a 64-bit hash for each row (8 bytes: a billion rows are 8 GB, a million 8 MB). Rows
whose hash occurs twice are read again and compared in full, so equal hashes alone accuse nobody.
No id becomes a Python object in either pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

# Files read at once. Each holds one column chunk of a row group (about 10 MB for a million ids).
_READERS = 8
# Ids that are compared in full at once: some 50 MB.
_COMPARED_AT_ONCE = 1_000_000
# Odd, so that multiplying by it loses nothing: 2^64 over the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The second and later rows of every id that occurs more than once.

    Attributes:
        rows: (D,) row numbers, counted from 0 over the whole manifest, ascending.
        first_rows: (D,) for each, the row that used the id first.
    """

    rows: Rows
    first_rows: Rows

    def between(self, start: int, stop: int) -> Duplicates:
        """Duplicates in start <= row < stop."""
        low, high = np.searchsorted(self.rows, [start, stop])
        return Duplicates(self.rows[low:high], self.first_rows[low:high])

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(row, first row) of the duplicates in start <= row < stop."""
        found = self.between(start, stop)
        return list(zip(found.rows.tolist(), found.first_rows.tolist(), strict=True))


@dataclass(frozen=True)
class IdColumn:
    """The ids of one file.

    Attributes:
        first_row: number of its first row in the whole manifest.
        rows: rows to look at; what comes after them is not read.
        read: reads the column from its start, in batches of any string or dictionary type; called
            once, and a second time only when two hashes are equal.
    """

    first_row: int
    rows: int
    read: Callable[[], Iterable[pa.Array]]

    def batches(self) -> Iterator[tuple[int, pa.Array]]:
        """(number of the first row in the whole manifest, ids) of each batch."""
        start = 0
        for ids in self.read():
            ids = ids[: self.rows - start]
            yield self.first_row + start, ids
            start += len(ids)
            if start >= self.rows:
                return
        assert start == self.rows, (
            f"the footers promised {self.rows} rows, the id column has {start}"
        )


def hash_ids(ids: pa.Array) -> Hashes:
    """A 64-bit hash of each id's bytes; that of a null id means nothing.

    Eight bytes of all ids at a time: ten million ids of 20 bytes take half a second, a fifth of
    what hashing them as Python strings takes.
    """
    if not len(ids):
        return np.empty(0, np.uint64)
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)):
        ids = ids.cast(pa.string())
    _, offsets, data = ids.buffers()
    width = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    ends = np.frombuffer(offsets, width)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    low, high = int(ends[0]), int(ends[-1])
    # The last word of the last id may reach seven bytes beyond the text.
    text = np.zeros(high - low + 8, np.uint8)
    if high > low:
        text[:-8] = np.frombuffer(data, np.uint8)[low:high]
    # The eight bytes from each place on.
    words = np.ndarray((high - low + 1,), "<u8", buffer=text.data, strides=(1,))
    place = ends[:-1] - low
    left = np.diff(ends)
    hashes = left.astype(np.uint64) * _MULTIPLIER
    unfinished = np.flatnonzero(left > 0)
    while len(unfinished):
        beyond = np.maximum(8 - left[unfinished], 0).astype(np.uint64)
        word = words[place[unfinished]] & (np.uint64(2**64 - 1) >> (np.uint64(8) * beyond))
        mixed = (hashes[unfinished] ^ word) * _MULTIPLIER
        hashes[unfinished] = mixed ^ (mixed >> _HALF)
        place += 8
        left -= 8
        unfinished = unfinished[left[unfinished] > 0]
    return hashes


def find_duplicates(
    read_ids: Callable[[], Iterable[pa.Array]],
    rows: int,
    hashed: Callable[[pa.Array], Hashes] = hash_ids,
) -> Duplicates:
    """`find_duplicates_in` a single column; `read_ids` is its `IdColumn.read`."""
    return find_duplicates_in([IdColumn(0, rows, read_ids)], hashed)


def find_duplicates_in(
    columns: Sequence[IdColumn], hashed: Callable[[pa.Array], Hashes] = hash_ids
) -> Duplicates:
    """Finds ids used more than once; null ids are no ids, and none is a duplicate of another.

    Args:
        columns: all files, in the order of their rows, without gaps; read several at a time.
        hashed: of each id, 64 bits.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        shared = _shared_hashes(columns, hashed, pool)
        if not len(shared):
            return Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))
        found = list(pool.map(lambda column: _suspects(column, shared, hashed), columns))
    return _compared_in_full([suspects for of_column in found for suspects in of_column])


def _shared_hashes(
    columns: Sequence[IdColumn],
    hashed: Callable[[pa.Array], Hashes],
    pool: ThreadPoolExecutor,
) -> Hashes:
    """Hashes that occur more than once, ascending."""
    hashes = np.empty(sum(column.rows for column in columns), np.uint64)

    def fill(column: IdColumn) -> None:
        for row, ids in column.batches():
            hashes[row : row + len(ids)] = hashed(ids)

    for _ in pool.map(fill, columns):
        pass
    hashes.sort()
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    return repeated[np.append(True, repeated[1:] != repeated[:-1])] if len(repeated) else repeated


@dataclass(frozen=True, eq=False)
class _Suspects:
    """Rows of a batch whose hash some other row has, those without an id left out.

    Attributes:
        rows, hashes, ids: (N,) each.
    """

    rows: Rows
    hashes: Hashes
    ids: pa.Array


def _suspects(
    column: IdColumn, shared: Hashes, hashed: Callable[[pa.Array], Hashes]
) -> list[_Suspects]:
    found = []
    for row, ids in column.batches():
        hashes = hashed(ids)
        # In order, since a search that jumps about in millions of hashes misses every cache.
        order = np.argsort(hashes)
        nearest = np.empty(len(ids), np.int64)
        nearest[order] = np.searchsorted(shared, hashes[order])
        is_shared = shared[np.minimum(nearest, len(shared) - 1)] == hashes
        places = np.flatnonzero(is_shared & ids.is_valid().to_numpy(zero_copy_only=False))
        if len(places):
            # Arrow counts text in 32 bits, which many long ids exceed.
            chosen = ids.take(pa.array(places)).cast(pa.large_string())
            found.append(_Suspects(row + places, hashes[places], chosen))
    return found


def _compared_in_full(suspects: Sequence[_Suspects]) -> Duplicates:
    """The duplicates among suspects, given in the order of their rows."""
    # Equal ids share a part, so parts are compared one after another: a manifest that was put
    # together twice is all suspects.
    parts = 1 + sum(len(batch.rows) for batch in suspects) // _COMPARED_AT_ONCE
    pairs = []
    for part in range(parts):
        members = [batch.hashes % np.uint64(parts) == part for batch in suspects]
        rows = _concatenated(batch.rows[m] for batch, m in zip(suspects, members, strict=True))
        ids = [batch.ids.filter(pa.array(m)) for batch, m in zip(suspects, members, strict=True)]
        codes = _codes(pa.chunked_array(ids, pa.large_string()))
        _, first_places = np.unique(codes, return_index=True)
        first_rows = rows[first_places][codes]
        is_later = first_rows != rows
        pairs.append((rows[is_later], first_rows[is_later]))
    later = _concatenated(rows for rows, _ in pairs)
    order = np.argsort(later)
    return Duplicates(later[order], _concatenated(firsts for _, firsts in pairs)[order])


def _concatenated(parts: Iterable[Rows]) -> Rows:
    return np.concatenate([np.empty(0, np.int64), *parts])


def _codes(ids: pa.ChunkedArray) -> Rows:
    """(N,) the same number for the same id, counted from 0."""
    indices = ids.combine_chunks().dictionary_encode().indices
    return np.asarray(indices.to_numpy(), np.int64)
