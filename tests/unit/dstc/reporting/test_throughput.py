from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dstc.reporting.throughput import Shard, Throughput, read_throughput, throughput_of
from dstc.store.run_folder import RunFolder


def _shard(start: float, end: float, rows: int = 10, **others: Any) -> Shard:
    values: dict[str, Any] = {"seconds": {}, "occupancy": 0.5, "worker": "w", **others}
    return Shard(rows=rows, started=start, ended=end, **values)


def _sum(*shards: Shard, **others: int) -> Throughput:
    return throughput_of(
        shards, **{"found": len(shards), "read": len(shards), "running": 0, **others}
    )


def test_pauses_between_commands_do_not_count() -> None:
    day = 86_400.0
    speed = _sum(_shard(0, 100), _shard(50, 150), _shard(day, day + 50))
    assert speed.active_s == 200 and speed.rate == pytest.approx(30 / 200)
    assert (speed.started, speed.ended) == (0, day + 50)
    assert sum(speed.rates) * 200 / len(speed.rates) == pytest.approx(30), "every row counts once"


def test_occupancy_is_weighted_by_time() -> None:
    speed = _sum(_shard(0, 90, occupancy=1.0), _shard(90, 100, occupancy=0.0))
    assert speed.occupancy == pytest.approx(0.9)
    assert speed.occupancies[0] == 1.0 and speed.occupancies[-1] == 0.0
    assert _sum(_shard(0, 9, occupancy=None)).occupancy is None


def test_sums_over_some_shards_are_scaled_to_all() -> None:
    speed = _sum(_shard(0, 10, seconds={"fetch": 2.0, "write": 6.0}), found=4)
    assert speed.rate == pytest.approx(4.0)
    fetch, _, _, write = speed.phases
    assert (fetch.seconds, fetch.share, fetch.per_row) == (8.0, 0.25, 0.2)
    assert write.share == 0.75


def test_shards_of_no_time_and_no_rows() -> None:
    speed = _sum(_shard(5, 5, rows=0))
    assert speed.rate is None and speed.rates == [] and speed.active_s == 0
    assert all(phase.per_row == 0 for phase in speed.phases)


def test_files_that_tell_nothing_are_passed_over(tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    stats.mkdir()
    good = {"state": "done", "rows": 2, "started": 1.0, "ended": 3.0, "worker": "h:1"}
    texts = [json.dumps(good), json.dumps({"state": "running"}), "{", "[]"]
    texts.append(json.dumps({**good, "ended": 0}))
    texts.append(json.dumps({**good, "rows": math.nan}))
    for number, text in enumerate(texts):
        (stats / f"{number:05d}.json").write_text(text)
    speed = read_throughput(RunFolder(str(tmp_path)))
    assert (speed.found, speed.running, speed.rows) == (6, 1, 2)
    assert speed.workers == [("h:1", 1, 2)]
    assert read_throughput(RunFolder(str(tmp_path / "none"))) == Throughput(0, 0, 0)
