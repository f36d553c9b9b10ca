from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc.store.check_part import check_part
from dstc.store.part_facts import PartFacts, with_facts
from dstc.store.results import Outcome, result_table
from dstc.store.row_digests import digest_rows

ROWS = 6
MANIFEST = pa.table(
    {
        "id": [f"row-{row}" for row in range(ROWS)],
        "prompt": [f"text {row}" for row in range(ROWS)],
    }
)
PART = with_facts(
    result_table(MANIFEST, [Outcome("done")] * ROWS), PartFacts(1, digest_rows(MANIFEST))
)


def test_a_part_as_it_was_written_has_no_fault() -> None:
    checked = check_part("part", PART, MANIFEST, ROWS)
    assert not checked.faults and checked.places == {row: row for row in range(ROWS)}


@settings(deadline=None)
@given(held=st.lists(st.integers(0, ROWS - 1), max_size=9), wanted=st.integers(0, ROWS))
def test_lost_and_doubled_rows_are_found_and_all_others_kept(held: list[int], wanted: int) -> None:
    part = PART.take(pa.array(held, pa.int64()))
    checked = check_part("part", part, MANIFEST, wanted)
    kinds = [fault.kind for fault in checked.faults]
    assert kinds.count("doubled_id") == len(held) - len(set(held))
    assert kinds.count("lost_row") == len(set(range(wanted)) - set(held))
    if len(held) != ROWS:  # as many rows as digests: the order counts, too
        assert len(kinds) == kinds.count("doubled_id") + kinds.count("lost_row")
        assert sorted(checked.places.values()) == sorted(set(held))
    assert all(held[row] == place for row, place in checked.places.items())


def test_rows_of_another_shard_and_changed_rows_are_named() -> None:
    ids = [*MANIFEST.column("id").to_pylist()[:5], "stranger"]
    other = PART.set_column(0, "id", pa.array(ids))
    checked = check_part("part", other, MANIFEST, ROWS)
    assert [(fault.kind, fault.what.split(";")[0]) for fault in checked.faults] == [
        ("foreign_row", "id 'stranger' in row 5"),
        ("lost_row", "id 'row-5' has no result"),
    ]
    seeds = MANIFEST.append_column("seed", pa.array([1] * ROWS, pa.int64()))
    checked = check_part("part", PART, seeds, ROWS)
    assert [fault.what for fault in checked.faults][0] == "row 'row-0': its seed changed"
    assert len(checked.faults) == ROWS and not checked.places


def test_equal_ids_of_a_manifest_are_its_own() -> None:
    rows = pa.table({"id": ["a", "a", None, None], "prompt": ["x", "y", "z", "z"]})
    part = result_table(rows, [Outcome("done"), *[Outcome("rejected")] * 3])
    assert not check_part("part", part, rows, 4).faults
    lost = check_part("part", part.slice(0, 3), rows, 4)
    assert [fault.kind for fault in lost.faults] == ["lost_row"]
