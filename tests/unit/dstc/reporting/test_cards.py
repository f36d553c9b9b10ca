from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dstc.reporting.cards import _side, _sort_values, relative_to
from dstc.reporting.thumbnails import MAX_SIDE
from dstc.store.json_record import Record


def _job(uri: str, rows: dict[str, int], rows_per_shard: int = 4) -> Record:
    files: dict[str, Any] = {name: {"rows": number} for name, number in rows.items()}
    values = {
        "settings": {"rows_per_shard": rows_per_shard},
        "manifest": {"uri": uri, "files": files},
    }
    return Record("job.json", values)


def test_relative_uris_start_at_the_folder_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "m" / "x").mkdir(parents=True)
    (tmp_path / "m[1].parquet").touch()
    assert relative_to(_job(str(tmp_path / "m"), {"x/b.parquet": 5})) == str(tmp_path / "m")
    pattern = str(tmp_path / "m" / "*" / "part-*.parquet")
    assert relative_to(_job(pattern, {"7/part-1.parquet": 3})) == str(tmp_path / "m")
    named = str(tmp_path / "m[1].parquet")
    assert relative_to(_job(named, {"m[1].parquet": 3})) == str(tmp_path)


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/gone/one.parquet", "/gone"),
        ("/gone/in/*/part-*.parquet", "/gone/in"),
        ("/gone/in/m[0-9].parquet", "/gone/in"),
        ("/gone/in/", "/gone/in"),
        ("nosuch://bucket/in/m.parquet", "nosuch://bucket/in"),
    ],
)
def test_of_a_manifest_that_is_gone_the_name_tells(uri: str, folder: str) -> None:
    assert relative_to(_job(uri, {"a": 3})) == folder


def test_a_partial_record_tells_nothing() -> None:
    assert relative_to(Record("job.json", {})) is None


def test_cards_sort_by_metrics_and_by_last_losses_that_are_numbers() -> None:
    losses = [{"index": 1, "phase": "sample", "clip": 3.0}]
    losses += [{"index": 0, "phase": "sample", "clip": 0.5, "total": float("nan")}]
    row = {"steps": 2, "seconds": 1.5, "restarts": 0}
    expected = {"seconds": 1.5, "restarts": 0, "metric clip": 0.25, "loss clip": 0.5}
    assert _sort_values(row, losses, {"clip": 0.25}) == expected
    assert _sort_values({**row, "steps": 0}, [], {}) == {}


def _rows(number: int, samples: int) -> list[dict[str, Any]]:
    row = {"content": "c", "style": "s", "image": "i", "samples": [{"sample": 1}] * samples}
    return [row] * number


def test_many_images_are_inlined_smaller() -> None:
    assert _side(_rows(24, 0), 11) == MAX_SIDE
    assert _side(_rows(200, 0), 3) < MAX_SIDE
    assert _side(_rows(200, 3), 3) < _side(_rows(200, 0), 3)
    assert _side(_rows(200, 99), 3) == _side(_rows(200, 3), 3), "three of them are shown"
