from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dstc.store.part_facts import PartFacts, facts_in, with_facts
from dstc.store.row_digests import (
    KNOWN_COLUMNS,
    changed_rows,
    describe_change,
    digest_rows,
    digest_shards,
    pack_digests,
    unpack_digests,
)

VALUES = st.none() | st.text(max_size=20)
ROW = st.fixed_dictionaries(
    {name: VALUES for name in KNOWN_COLUMNS if name != "seed"}
    | {"seed": st.none() | st.integers(0, 2**63 - 1)}
)
SCHEMA = pa.schema(
    [(name, pa.int64() if name == "seed" else pa.string()) for name in KNOWN_COLUMNS]
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


@settings(deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6), other=ROW, at=st.integers(0, 5))
def test_a_row_has_the_digest_of_its_values_alone(
    rows: list[dict[str, Any]], other: dict[str, Any], at: int
) -> None:
    at %= len(rows)
    digests = digest_rows(table(rows))
    assert (
        digests[at]
        == digest_rows(table(rows).slice(at, 1))[0]
        == digest_rows(table(rows[at : at + 1]))
    )
    assume(other != rows[at])
    changed = digest_rows(table([*rows[:at], other, *rows[at + 1 :]]))
    assert np.flatnonzero(changed != digests).tolist() == [at]


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_the_type_of_a_column_does_not_count(kind: pa.DataType) -> None:
    rows = pa.table({"id": ["a", None, ""], "prompt": ["x", "naïve", None]})
    prompts = rows.column("prompt")
    same = prompts.dictionary_encode() if pa.types.is_dictionary(kind) else prompts.cast(kind)
    other = rows.set_column(1, "prompt", same)
    assert digest_rows(other).tolist() == digest_rows(rows).tolist()
    assert len(set(digest_rows(rows).tolist())) == 3
    assert digest_rows(rows.append_column("mask", pa.nulls(3))).tolist() == (
        digest_rows(rows).tolist()
    )


def test_values_that_are_no_text_have_digests_too() -> None:
    broken = pa.table({"id": pa.array([b"\xff\xfe", b"\xff\xfd"])})
    lists = pa.table({"id": pa.array([[1, 2], [1, 3]])})
    for rows in (broken, lists):
        assert len(set(digest_rows(rows).tolist())) == 2


@settings(deadline=None)
@given(rows=st.lists(st.integers(0, 2**64 - 1), max_size=12), per_shard=st.integers(1, 5))
def test_shards_are_digested_in_one_go_as_each_by_itself(rows: list[int], per_shard: int) -> None:
    digests = np.array(rows, np.uint64)
    alone = [
        digest_shards(digests[start : start + per_shard], per_shard)[0]
        for start in range(0, len(rows), per_shard)
    ]
    assert digest_shards(digests, per_shard) == alone and 0 not in alone
    assert unpack_digests(pack_digests(digests)).tolist() == rows


def test_two_rows_that_change_places_change_the_shard() -> None:
    digests = digest_rows(pa.table({"id": ["a", "b"]}))
    assert digest_shards(digests, 2) != digest_shards(digests[::-1], 2)


def test_a_change_is_described() -> None:
    there = pa.table({"id": ["a"], "prompt": ["a cat"], "seed": [5]})
    here = pa.table({"id": ["a"], "prompt": [None], "style": ["s.png"], "seed": [6]})
    assert describe_change(there, here) == (
        "row 'a': style was empty, and is 's.png' now; prompt was 'a cat', and is empty now"
    )
    assert describe_change(there, there) == "row 'a': its seed changed"


def test_a_part_without_digests_is_compared_by_its_columns() -> None:
    part = pa.table({"id": ["a", "b"], "prompt": ["x", "y"], "seed": [1, 2]})
    rows = pa.table({"id": ["a", "b", "c"], "prompt": ["x", "z", "x"]})
    assert changed_rows(part, rows, digest_rows(rows), None) == [1]
    assert changed_rows(part, rows, digest_rows(rows), digest_rows(rows)[:2]) == []


def test_a_part_says_what_it_is_of() -> None:
    rows = pa.table({"id": ["a", "b"]})
    digests = digest_rows(rows)
    said = facts_in(with_facts(rows, PartFacts(3, digests)).schema, 2)
    assert said.attempt == 3 and said.digests is not None
    assert said.digests.tolist() == digests.tolist() and said.digest == digest_shards(digests, 2)[0]
    assert facts_in(rows.schema, 2).digest == 0
    for metadata in ({"dstc.attempt": "x"}, {"dstc.row_digests": "zz"}, {"dstc.row_digests": "00"}):
        broken = facts_in(rows.replace_schema_metadata(metadata).schema, 2)
        assert (broken.attempt, broken.digests) == (0, None)
    assert facts_in(with_facts(rows, PartFacts(3, digests)).schema, 1).digests is None
