from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.reporting.parts import Numbering, read_rows
from dstc.store.run_folder import RunFolder


def _write(run: RunFolder, shard: int, ids: list[str]) -> None:
    columns = {
        "id": pa.array(ids, pa.string()),
        "pixels": pa.array([b"x"] * len(ids), pa.binary()),
        "losses": pa.array([[{"index": 1}]] * len(ids)),
    }
    Path(run.results).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), run.part(shard))


def test_rows_are_spread_evenly_over_parts_of_any_size(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    parts, first = [(0, 1), (1, 600), (3, 7), (4, 392)], 0
    for shard, size in parts:
        _write(run, shard, [str(first + n) for n in range(size)])
        first += size
    numbering = Numbering(parts)
    assert [row["id"] for row in read_rows(run, numbering.spread(10))] == [
        str(number) for number in range(0, 1000, 100)
    ]
    found = read_rows(run, numbering.spread(2000))
    assert [int(row["id"]) for row in found] == list(range(1000))
    assert found[601]["losses"] == [{"index": 1}]
    assert (found[601]["shard"], found[601]["offset"]) == (3, 0)
    assert "pixels" not in found[0], "bytes stay in storage"
    assert Numbering([]).spread(10) == []


def test_numbers_and_places_are_each_others_inverse() -> None:
    numbering = Numbering([(2, 3), (7, 1), (9, 4)])
    assert [numbering.place(number) for number in (0, 2, 3, 4, 7)] == [
        (2, 0), (2, 2), (7, 0), (9, 0), (9, 3),
    ]  # fmt: skip
    assert all(numbering.number(numbering.place(number)) == number for number in range(8))


def test_rows_of_a_part_that_is_gone_are_left_out(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    _write(run, 0, ["a", "b"])
    assert [row["id"] for row in read_rows(run, [(0, 1), (4, 0)])] == ["b"]
