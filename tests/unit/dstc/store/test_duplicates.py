from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc.store.duplicates import (
    Duplicates,
    IdColumn,
    find_duplicates,
    find_duplicates_in,
    hash_ids,
)

IDS = st.text("ab/é", max_size=20) | st.none()
TYPES = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


def find(ids: list[str | None], batch: int = 3, **options: object) -> Duplicates:
    def read() -> list[pa.Array]:
        batches = [ids[start : start + batch] for start in range(0, len(ids), batch)]
        return [pa.array(part, pa.string()) for part in batches]

    return find_duplicates(read, len(ids), **options)  # type: ignore[arg-type]


def column(first_row: int, ids: list[str | None], kind: pa.DataType, batch: int) -> IdColumn:
    whole = pa.array(ids, pa.string()).cast(kind)

    def read() -> Iterator[pa.Array]:
        # Slices keep the buffers of the whole, as batches of a Parquet file may.
        for start in range(0, len(whole), batch):
            yield whole.slice(start, batch)

    return IdColumn(first_row, len(ids), read)


def plainly(ids: list[str | None]) -> list[tuple[int, int]]:
    first_row_of: dict[str, int] = {}
    return [
        (row, first_row_of[name])
        for row, name in enumerate(ids)
        if name is not None and first_row_of.setdefault(name, row) != row
    ]


def test_later_rows_are_the_duplicates_of_the_first() -> None:
    found = find(["a", "b", "a", "c", "b", "a"])
    assert found.within(0, 6) == [(2, 0), (4, 1), (5, 0)]
    assert found.within(3, 5) == [(4, 1)]
    assert found.between(3, 5).within(0, 6) == [(4, 1)]


def test_null_ids_are_no_duplicates() -> None:
    assert find([None, "a", None, ""]).within(0, 4) == []
    assert find([None, None]).within(0, 2) == []


def test_equal_hashes_alone_accuse_nobody() -> None:
    found = find(["a", "b", "c", "b"], hashed=lambda ids: np.zeros(len(ids), dtype=np.uint64))
    assert found.within(0, 4) == [(3, 1)]


def test_the_column_is_read_once_when_all_hashes_differ() -> None:
    reads = []

    def read() -> list[pa.Array]:
        reads.append(1)
        return [pa.array([str(number) for number in range(1000)])]

    assert not len(find_duplicates(read, 1000).rows)
    assert len(reads) == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", "long/" * 20, None]), min_size=1))
def test_matches_the_plain_way(ids: list[str | None]) -> None:
    found = find(ids)
    names = [name for name in ids if name is not None]
    assert len(found.rows) == sum(count - 1 for count in Counter(names).values())
    assert all(ids[row] == ids[first] and first < row for row, first in found.within(0, len(ids)))


@settings(deadline=None)
@given(
    files=st.lists(
        st.tuples(st.lists(IDS, min_size=1, max_size=20), st.sampled_from(TYPES)),
        min_size=1,
        max_size=4,
    ),
    batch=st.integers(1, 7),
    bits=st.sampled_from([0, 1, 64]),
)
def test_files_of_any_text_type_match_a_dictionary(
    files: list[tuple[list[str | None], pa.DataType]], batch: int, bits: int
) -> None:
    everything = [name for ids, _ in files for name in ids]
    columns, first_row = [], 0
    for ids, kind in files:
        columns.append(column(first_row, ids, kind, batch))
        first_row += len(ids)
    # Fewer bits make the hashes of different ids collide.
    kept = np.uint64(2**bits - 1)
    found = find_duplicates_in(columns, lambda ids: hash_ids(ids) & kept)
    assert found.within(0, len(everything)) == plainly(everything)


def test_a_column_shorter_than_its_footer_promised_is_noticed() -> None:
    with pytest.raises(AssertionError, match="promised 3 rows, the id column has 2"):
        find_duplicates(lambda: [pa.array(["a", "b"])], 3)


@given(st.lists(IDS, min_size=1, max_size=20), st.integers(0, 19))
def test_a_hash_depends_on_the_id_alone(ids: list[str | None], start: int) -> None:
    whole = pa.array(ids, pa.string())
    hashes = hash_ids(whole)
    assert (hash_ids(whole.slice(start)) == hashes[start:]).all()
    for kind in TYPES:
        cast = hash_ids(whole.cast(kind))
        assert all(a == b for a, b, name in zip(cast, hashes, ids, strict=True) if name is not None)
    assert hash_ids(whole.slice(0, 0)).shape == (0,)


@given(st.sets(st.text("ab\0", max_size=25), min_size=2))
def test_different_ids_have_different_hashes(ids: set[str]) -> None:
    # Two of them collide by chance once in 2^64 / 2.
    assert len(set(hash_ids(pa.array(sorted(ids))).tolist())) == len(ids)
