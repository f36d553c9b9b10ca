from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.reporting.tally import MAX_MISSES, count_rows
from dstc.store.run_folder import RunFolder


def _write(run: RunFolder, shard: int, rows: Sequence[tuple[str, str, str | None]]) -> None:
    ids, statuses, reasons = zip(*rows, strict=True)
    columns = {
        "id": pa.array(ids, pa.string()),
        "status": pa.array(statuses, pa.string()),
        "reason": pa.array(reasons, pa.string()),
        "error": pa.array([f"about {row_id}" for row_id in ids], pa.string()),
        "pixels": pa.array([b"x"] * len(ids), pa.binary()),
        "losses": pa.array([[{"index": 1}]] * len(ids)),
    }
    Path(run.results).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), run.part(shard))


def test_rows_are_counted_by_status_and_reason(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    _write(run, 0, [("a", "done", None), ("b", "failed", "oom"), ("c", "done", None)])
    _write(run, 3, [(f"r{n}", "rejected", "bad_id") for n in range(9)] + [("z", "failed", None)])
    tally = count_rows(run, run.parts())
    assert tally.rows == 13 and tally.counts == {"done": 2, "failed": 2, "rejected": 9}
    assert tally.parts == [(0, 3), (3, 10)]
    counts = {key: reason.count for key, reason in tally.reasons.items()}
    expected = {("failed", "oom"): 1, ("rejected", "bad_id"): 9, ("failed", "unknown"): 1}
    assert counts == expected
    examples = tally.reasons["rejected", "bad_id"].examples
    assert [(miss.id, miss.error) for miss in examples] == [
        (f"r{n}", f"about r{n}") for n in range(3)
    ]
    assert [miss.id for miss in tally.named_misses()][:3] == ["b", "z", "r0"]


def test_rare_reasons_keep_their_examples(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    _write(run, 0, [(f"m{n}", "failed", "many") for n in range(500)] + [("rare", "failed", "rare")])
    tally = count_rows(run, [0])
    assert [miss.id for miss in tally.reasons["failed", "rare"].examples] == ["rare"]
    assert len(tally.named_misses()) == MAX_MISSES


def test_a_broken_part_is_named(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    _write(run, 0, [("a", "done", None)])
    Path(run.part(1)).write_bytes(b"nothing of the kind")
    tally = count_rows(run, run.parts())
    assert tally.rows == 1
    assert len(tally.unreadable) == 1 and tally.unreadable[0].startswith("part-00001.parquet: ")


def test_flags_are_counted_one_by_one(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    Path(run.results).mkdir(parents=True)
    flagged = ["range, structure", None, "structure", "", "structure", "structure", "structure"]
    columns = {"id": list("abcdefg"), "status": ["done"] * 7, "flagged": flagged}
    pq.write_table(pa.table(columns), run.part(0))
    pq.write_table(pa.table({**columns, "flagged": [None] * 6 + ["range"]}), run.part(2))
    pq.write_table(pa.table({**columns, "flagged": [True] * 7}), run.part(3))
    tally = count_rows(run, run.parts())
    assert tally.rows == 21 and tally.flagged == 6
    assert tally.flags == {"structure": 5, "range": 2}
    assert tally.flag_examples["structure"] == [(0, 0), (0, 2), (0, 4)]
    assert tally.flag_examples["range"] == [(0, 0), (2, 6)]
    assert count_rows(run, [3]).flagged is None, "a column of booleans is the user's own"


def test_examples_tell_where_they_are(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    _write(run, 0, [("a", "done", None), ("b", "failed", "oom")])
    _write(run, 5, [("c", "done", None)] * 1500 + [("d", "failed", "oom")])
    (reason,) = count_rows(run, run.parts()).reasons.values()
    assert [miss.place for miss in reason.examples] == [(0, 1), (5, 1500)]
