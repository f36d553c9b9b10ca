from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.store import storage
from dstc.store.ledger import Ledger, count_rows, flagged_reasons, made_by
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder


def finish(run: RunFolder, shard: int, outcomes: list[tuple[str, str | None]]) -> pa.Table:
    rows = pa.table({"id": [f"{shard}-{row}" for row in range(len(outcomes))]})
    table = result_table(rows, [Outcome(status, reason) for status, reason in outcomes])
    write_part(run, shard, table)
    return table


DONE = ("done", None)


def test_counts_survive_saving_and_opening(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    ledger = Ledger.open(run)
    assert len(ledger) == 0
    ledger.record(7, {"done": {None: 16}})
    ledger.record(2, {"done": {None: 1}, "failed": {"fetch_error": 2, "non_finite": 1}})
    ledger.record(3, {"rejected": {"bad_id": 4}})
    ledger.save()
    again = Ledger.open(run)
    assert len(again) == 3 and 7 in again and 4 not in again
    assert again.totals() == ledger.totals()
    assert again.totals()["done"] == {None: 17}
    assert again.totals()["failed"] == {"fetch_error": 2, "non_finite": 1}
    assert again.failed_shards() == [2] and again.flagged_shards() == []
    assert [again.rows_of(shard) for shard in (2, 3, 7)] == [4, 4, 16]


def test_parts_that_are_not_known_are_read_and_those_gone_are_forgotten(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    finish(run, 0, [DONE, DONE])
    finish(run, 1, [DONE, ("failed", "fetch_error")])
    ledger = Ledger(run)
    ledger.record(5, {"done": {None: 2}})
    ledger.complete(run.parts())
    assert 5 not in ledger and ledger.failed_shards() == [1]
    assert ledger.totals() == {"done": {None: 3}, "failed": {"fetch_error": 1}}


def test_known_parts_are_not_opened_again(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    finish(run, 0, [DONE])
    ledger = Ledger(run)
    ledger.record(0, {"done": {None: 99}})
    ledger.complete([0])
    assert ledger.rows_of(0) == 99


def test_a_shard_that_ran_again_counts_once(tmp_path: Path) -> None:
    ledger = Ledger(RunFolder(str(tmp_path)))
    ledger.record(0, {"done": {None: 3}, "failed": {"fetch_error": 1}})
    ledger.record(0, {"done": {None: 4}})
    assert ledger.totals() == {"done": {None: 4}}
    assert ledger.failed_shards() == []
    ledger.forget([0, 1])
    assert len(ledger) == 0


def test_a_ledger_that_cannot_be_read_is_no_ledger(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    storage.write_bytes(run.ledger, b"half of")
    assert len(Ledger.open(run)) == 0


def test_rows_are_counted_by_status_and_reason(tmp_path: Path) -> None:
    table = finish(RunFolder(str(tmp_path)), 0, [DONE, ("failed", "x"), DONE, ("failed", "y")])
    assert count_rows(table) == {"done": {None: 2}, "failed": {"x": 1, "y": 1}}


def test_flagged_rows_are_done_for_a_reason(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    outcomes = [
        [Outcome("done"), Outcome("done", flagged="clip"), Outcome("done", flagged="clip, range")],
        [Outcome("done"), Outcome("failed", "x")],
        [Outcome("done", flagged="clip")],
    ]
    for shard, ended in enumerate(outcomes):
        rows = pa.table({"id": [f"{shard}-{row}" for row in range(len(ended))]})
        write_part(run, shard, result_table(rows, ended))
    ledger = Ledger(run)
    ledger.complete(run.parts())
    ledger.save()
    for known in (ledger, Ledger.open(run)):
        assert known.flagged_shards() == [0, 2] and known.failed_shards() == [1]
        assert known.totals()["done"] == {None: 2, "clip": 2, "clip, range": 1}
        assert known.totals()["done"].total() == 5
        assert flagged_reasons(known.totals()) == {"clip": 2, "clip, range": 1}
        assert [known.rows_of(shard) for shard in range(3)] == [3, 2, 1]


def test_a_part_of_before_there_were_gates_is_counted(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    table = finish(run, 0, [DONE, ("failed", "x")]).drop_columns(["flagged", "retries"])
    pq.write_table(table, run.part(0))
    ledger = Ledger(run)
    ledger.complete([0])
    assert ledger.totals() == {"done": {None: 1}, "failed": {"x": 1}}
    assert ledger.flagged_shards() == []


def test_a_part_of_another_size_is_read_again(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    finish(run, 0, [DONE, DONE])
    finish(run, 1, [DONE])
    ledger = Ledger(run)
    ledger.complete(run.part_sizes())
    ledger.save()
    finish(run, 0, [DONE, DONE, ("failed", "x")])
    again = Ledger.open(run)
    assert again.rows_of(0) == 2, "the ledger is an index"
    assert again.complete(run.part_sizes()) == {}
    assert [again.rows_of(shard) for shard in again.known()] == [3, 1]


def test_sizes_that_are_not_known_are_taken_from_storage(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    finish(run, 0, [DONE])
    ledger = Ledger(run)
    ledger.record(0, {"done": {None: 99}}, digest=-7)
    ledger.complete(run.part_sizes())
    assert (ledger.rows_of(0), ledger.digest_of(0)) == (99, -7)
    Path(run.part(0)).write_bytes(b"cut")
    (why,) = ledger.complete(run.part_sizes()).values()
    assert "results/part-00000.parquet: not a readable part (3 bytes" in why and 0 not in ledger


def test_damaged_parts_are_named_and_not_counted(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    finish(run, 0, [DONE])
    pq.write_table(pa.table({"x": [1]}), run.part(1))
    ledger = Ledger(run)
    assert list(ledger.complete(run.parts())) == [1] and ledger.known() == [0]
    ledger.save()
    assert Ledger.open(run).known() == [0]


def test_rows_that_are_done_are_counted_by_what_made_them(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for shard, makers in enumerate((["student", "student", "guided"], ["student", None, None])):
        rows = pa.table({"id": [f"{shard}-{row}" for row in range(3)]})
        ended = [Outcome("done", made_by=m) if m else Outcome("failed", "x") for m in makers]
        write_part(run, shard, result_table(rows, ended))
    ledger = Ledger(run)
    ledger.complete(run.part_sizes())
    ledger.save()
    again = Ledger.open(run)
    assert made_by(again.totals()) == {"student": 3, "guided": 1}
    assert [again.rows_of(shard) for shard in (0, 1)] == [3, 3]
    assert again.totals()["done"] == {None: 4} and again.failed_shards() == [1]
