"""Ids that a manifest uses more than once, found without holding its ids.

One pass keeps a 64-bit hash for each row (8 bytes: a billion rows are 8 GB, a million 8 MB). Rows
whose hash occurs twice are read again and compared in full, so equal hashes alone accuse nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pandas.util import hash_array  # type: ignore[import-untyped]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The second and later rows of every id that occurs more than once.

    Attributes:
        rows: (D,) row numbers, counted from 0 over the whole manifest, ascending.
        first_rows: (D,) for each, the row that used the id first.
    """

    rows: Rows
    first_rows: Rows

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(row, first row) of the duplicates in start <= row < stop."""
        low, high = np.searchsorted(self.rows, [start, stop])
        pairs = zip(self.rows[low:high], self.first_rows[low:high], strict=True)
        return [(int(row), int(first)) for row, first in pairs]


def hash_ids(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id; that of a null id means nothing."""
    values = ids.fill_null("").to_numpy(zero_copy_only=False).astype(object)
    return np.asarray(hash_array(values, categorize=False), dtype=np.uint64)


def find_duplicates(
    read_ids: Callable[[], Iterable[pa.Array]],
    rows: int,
    hashed: Callable[[pa.Array], npt.NDArray[np.uint64]] = hash_ids,
) -> Duplicates:
    """Finds ids used more than once; null ids are no ids, and none is a duplicate of another.

    Args:
        read_ids: reads the id column from its start, in batches; called once, and a second time
            only when two hashes are equal.
        rows: rows to look at; what comes after them is not read.
        hashed: of each id, 64 bits.
    """
    hashes = np.empty(rows, dtype=np.uint64)
    for start, ids in _batches(read_ids, rows):
        hashes[start : start + len(ids)] = hashed(ids)
    hashes.sort()
    shared = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(shared):
        return Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))
    first_row_of: dict[str, int] = {}
    found: list[tuple[int, int]] = []
    for start, ids in _batches(read_ids, rows):
        for offset in np.flatnonzero(np.isin(hashed(ids), shared)).tolist():
            identity = ids[offset].as_py()
            if identity is None:
                continue
            first = first_row_of.setdefault(identity, start + offset)
            if first != start + offset:
                found.append((start + offset, first))
    pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
    return Duplicates(pairs[:, 0], pairs[:, 1])


def _batches(
    read_ids: Callable[[], Iterable[pa.Array]], rows: int
) -> Iterable[tuple[int, pa.Array]]:
    start = 0
    for ids in read_ids():
        ids = ids[: rows - start]
        yield start, ids
        start += len(ids)
        if start >= rows:
            return
    assert start == rows, f"the footers promised {rows} rows, the id column has {start}"
