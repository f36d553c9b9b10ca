from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.store.duplicates import Duplicates, find_duplicates


def find(ids: list[str | None], batch: int = 3, **options: object) -> Duplicates:
    def read() -> list[pa.Array]:
        batches = [ids[start : start + batch] for start in range(0, len(ids), batch)]
        return [pa.array(part, pa.string()) for part in batches]

    return find_duplicates(read, len(ids), **options)  # type: ignore[arg-type]


def test_later_rows_are_the_duplicates_of_the_first() -> None:
    found = find(["a", "b", "a", "c", "b", "a"])
    assert found.within(0, 6) == [(2, 0), (4, 1), (5, 0)]
    assert found.within(3, 5) == [(4, 1)]


def test_null_ids_are_no_duplicates() -> None:
    assert find([None, "a", None, ""]).within(0, 4) == []


def test_equal_hashes_alone_accuse_nobody() -> None:
    found = find(["a", "b", "c", "b"], hashed=lambda ids: np.zeros(len(ids), dtype=np.uint64))
    assert found.within(0, 4) == [(3, 1)]


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "long/" * 20, None]), min_size=1))
def test_matches_the_plain_way(ids: list[str | None]) -> None:
    found = find(ids)
    names = [name for name in ids if name is not None]
    assert len(found.rows) == sum(count - 1 for count in Counter(names).values())
    assert all(ids[row] == ids[first] and first < row for row, first in found.within(0, len(ids)))
