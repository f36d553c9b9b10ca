"""`--column content=image_path`: columns of a manifest that are called otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dstc
from dstc.errors import ManifestError, RunFolderError, SettingsError
from dstc.planning.settings import make_settings
from dstc.verify import verify
from tests.hostile.local_run import LocalRun

COLUMNS = {"id": "name", "content": "image.path", "prompt": "caption"}
Rows = dict[str, list[Any]]


@pytest.fixture
def rows(good_rows: Callable[[int], Rows]) -> Rows:
    found = {COLUMNS[name]: values for name, values in good_rows(9).items()}
    return {**found, "label": list(range(9))}


def write(path: Path, rows: Rows, count: int = 6) -> Path:
    pq.write_table(pa.table({name: values[:count] for name, values in rows.items()}), path)
    return path


@pytest.fixture
def run(tmp_path: Path, rows: Rows) -> LocalRun:
    return LocalRun(write(tmp_path / "rows.parquet", rows), tmp_path / "run")


def test_results_have_the_names_of_the_manifest(run: LocalRun, rows: Rows) -> None:
    assert run.translate(columns=COLUMNS).done == 6
    table = pa.concat_tables(pq.read_table(run.part(shard)) for shard in (0, 1))
    assert table.column_names[:5] == ["id", "content", "prompt", "label", "status"]
    for ours, theirs in {**COLUMNS, "label": "label"}.items():
        assert table.column(ours).to_pylist() == rows[theirs][:6]
    assert verify(str(run.output)).is_whole
    run.seen.clear()
    assert run.translate(columns=COLUMNS).done == 6 and not run.seen


def test_they_are_part_of_what_the_run_is(run: LocalRun, rows: Rows) -> None:
    rows["other"] = rows["image.path"]
    write(run.manifest, rows)
    run.translate(columns=COLUMNS)
    assert json.loads(Path(run.folder.job).read_text())["identity"]["columns"] == COLUMNS
    with pytest.raises(RunFolderError, match='columns.content: there "image.path", here "other"'):
        run.plan(columns={**COLUMNS, "content": "other"})


def test_rows_that_come_later_are_called_so_too(run: LocalRun, rows: Rows) -> None:
    run.translate(columns=COLUMNS)
    write(run.manifest, {name: values[::-1] for name, values in rows.items()}, 9)
    run.seen.clear()
    assert run.translate(columns=COLUMNS, append=True).done == 9
    assert len(run.seen) == 3 and verify(str(run.output)).is_whole


def test_one_column_may_be_two(run: LocalRun, rows: Rows) -> None:
    columns = {"id": "name", "content": "image.path", "style": "image.path"}
    plan = run.plan(columns=columns)
    assert plan.manifest.schema.names == ["id", "content", "style", "caption", "label"]
    assert run.translate(columns=columns).done == 6


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            {"content": "picture"},
            "--column content=picture: there is no column 'picture'; found",
        ),
        ({"prompt": "label"}, "column 'id': not found"),
        ({**COLUMNS, "source_prompt": "label"}, "column 'source_prompt': found int64; expected"),
    ],
)
def test_columns_that_are_not_there(run: LocalRun, columns: dict[str, str], text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        run.plan(columns=columns)


def test_a_name_that_the_file_has_too(run: LocalRun, rows: Rows) -> None:
    write(run.manifest, {**rows, "prompt": ["x"] * 9})
    with pytest.raises(ManifestError, match="--column prompt=caption: found a column 'prompt'"):
        run.plan(columns=COLUMNS)
    swapped = {**COLUMNS, "prompt": "caption", "source_prompt": "prompt"}
    assert run.plan(columns=swapped).manifest.schema.names[2:4] == ["prompt", "label"]


@pytest.mark.parametrize("columns", [{"label": "class"}, {"content": ""}])
def test_names_that_mean_nothing_are_refused(columns: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="--column: found .*expected NAME=COLUMN, with a NAME"):
        make_settings(manifest="m", output="o", columns=columns)


def test_a_check_takes_them_too(run: LocalRun) -> None:
    assert dstc.check_manifest(run.manifest).schema, "content is missing"
    found = dstc.check_manifest(run.manifest, images=None, columns=COLUMNS)
    assert not found.schema and not found.has_bad_rows and found.rows == 6
    (fault,) = dstc.check_manifest(run.manifest, columns={**COLUMNS, "style": "looks"}).schema
    assert "--column style=looks: there is no column 'looks'" in fault
