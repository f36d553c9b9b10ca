from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dstc.reporting.cards import _side, _sort_values, manifest_folders
from dstc.reporting.thumbnails import MAX_SIDE
from dstc.store.json_record import Record


def _job(uri: str, rows: dict[str, int], rows_per_shard: int = 4) -> Record:
    files: dict[str, Any] = {name: {"rows": number} for name, number in rows.items()}
    values = {
        "settings": {"rows_per_shard": rows_per_shard},
        "manifest": {"uri": uri, "files": files},
    }
    return Record("job.json", values)


def test_relative_uris_start_at_the_file_that_held_the_row(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    folder_of = manifest_folders(_job(str(tmp_path / "m"), {"a.parquet": 9, "x/b.parquet": 5}))
    expected = [str(tmp_path / "m")] * 3 + [str(tmp_path / "m" / "x")] * 2
    assert [folder_of(shard) for shard in range(5)] == expected


@pytest.mark.parametrize(
    ("uri", "name", "folder"),
    [
        ("/data/one.parquet", "one.parquet", "/data"),
        ("s3://b/in/*/part-*.parquet", "7/part-1.parquet", "s3://b/in/7"),
        ("/data/in/m[0-9].parquet", "m1.parquet", "/data/in"),
    ],
)
def test_files_and_globs(uri: str, name: str, folder: str) -> None:
    assert manifest_folders(_job(uri, {name: 3}))(0) == folder


def test_a_partial_record_tells_nothing() -> None:
    assert manifest_folders(Record("job.json", {}))(0) is None
    assert manifest_folders(_job("/data/a.parquet", {}))(0) is None


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
