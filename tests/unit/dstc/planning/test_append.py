"""`--append`: rows that came to a manifest, wherever they lie, without any Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.driver.terminal import print_appended
from dstc.errors import ManifestError, RunFolderError
from dstc.export import export
from dstc.planning.run_identity import open_or_create
from dstc.status import read_status
from dstc.store.row_order import OrderedManifest, RowOrder
from dstc.verify import verify
from tests.hostile.local_run import LocalRun

OLD, NEW = 10, 16
Columns = dict[str, list[Any]]


@pytest.fixture
def columns(good_rows: Callable[[int], Columns]) -> Columns:
    rows = good_rows(NEW)
    rows["label"] = [number % 3 for number in range(NEW)]
    return rows


def write(path: Path, columns: Columns, places: Any) -> Path:
    chosen = {name: [values[place] for place in places] for name, values in columns.items()}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(chosen), path)
    return path


@pytest.fixture
def run(tmp_path: Path, columns: Columns) -> LocalRun:
    """A finished run of ten rows."""
    run = LocalRun(write(tmp_path / "rows.parquet", columns, range(OLD)), tmp_path / "run")
    assert run.translate().done == OLD
    run.seen.clear()
    return run


def files_of(run: LocalRun) -> dict[str, bytes]:
    folders = ("results", "images")
    found = (path for folder in folders for path in (run.output / folder).rglob("*.p*"))
    return {str(path.relative_to(run.output)): path.read_bytes() for path in found}


def ids(columns: Columns, places: Any) -> list[str]:
    return [columns["id"][place] for place in places]


PLACES = {
    "behind": list(range(NEW)),
    "before": [*range(OLD, NEW), *range(OLD)],
    "between": [0, 10, 1, 2, 3, 4, 11, 12, 5, 6, 13, 7, 8, 14, 9, 15],
    "in another order": [15, 3, 9, 10, 0, 12, 8, 1, 14, 2, 7, 11, 6, 5, 4, 13],
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_only_new_rows_are_translated(run: LocalRun, columns: Columns, places: list[int]) -> None:
    before, record = files_of(run), json.loads(Path(run.folder.job).read_text())
    write(run.manifest, columns, places)
    summary = run.translate(append=True)
    assert (summary.rows, summary.done, summary.rows_run) == (NEW, NEW, NEW - OLD)
    assert sorted(run.seen) == ids(columns, range(OLD, NEW))
    after = files_of(run)
    assert {name: after[name] for name in before} == before, "what is done stays, byte for byte"
    assert sorted(row["id"] for row in run.rows()) == sorted(map(repr, columns["id"]))
    labels = {row["id"]: row["label"] for row in run.rows()}
    assert labels == {repr(columns["id"][n]): repr(n % 3) for n in range(NEW)}

    job = json.loads(Path(run.folder.job).read_text())
    assert job["run_id"] == record["run_id"] and job["fingerprint"] != record["fingerprint"]
    (step,) = job["appends"]
    assert (step["rows_before"], step["rows"]) == (OLD, NEW)
    assert step["fingerprint_before"] == record["fingerprint"]

    assert verify(str(run.output)).is_whole
    status = read_status(str(run.output))
    assert (status.rows, status.rows_ended, status.done) == (NEW, NEW, NEW)
    run.seen.clear()
    for options in ({}, {"append": True}):  # begun once, both continue it
        assert run.translate(**options).done == NEW
    assert not run.seen and files_of(run) == after


def test_a_second_append_and_a_third(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, [0, 10, *range(1, OLD)])
    assert run.translate(append=True).done == 11
    write(run.manifest, columns, [11, 0, 10, 12, *range(1, OLD)])
    assert run.translate(append=True).done == 13
    write(run.manifest, columns, range(NEW))
    assert run.translate(append=True).done == NEW
    assert sorted(run.seen) == ids(columns, range(OLD, NEW)), "each once"
    assert len(json.loads(Path(run.folder.job).read_text())["appends"]) == 3
    assert verify(str(run.output)).is_whole


def test_files_that_came_to_a_folder_anywhere(tmp_path: Path, columns: Columns) -> None:
    folder = tmp_path / "rows"
    write(folder / "b.parquet", columns, range(5))
    write(folder / "d.parquet", columns, range(5, OLD))
    run = LocalRun(folder, tmp_path / "run")
    assert run.translate().done == OLD
    before = files_of(run)
    run.seen.clear()
    write(folder / "a.parquet", columns, [10, 11])
    write(folder / "c.parquet", columns, [12])
    write(folder / "d.parquet", columns, [5, 6, 7, 8, 13, 9])
    write(folder / "e.parquet", columns, [14, 15])
    plan = run.plan(append=True)
    assert isinstance(plan.manifest, OrderedManifest) and list(plan.pending) == [4, 5, 6, 7]
    assert run.translate(append=True).done == NEW
    assert sorted(run.seen) == ids(columns, range(OLD, NEW))
    assert before.items() <= files_of(run).items() and verify(str(run.output)).is_whole


def test_a_file_that_sorts_last_needs_no_order(tmp_path: Path, columns: Columns) -> None:
    folder = tmp_path / "rows"
    write(folder / "a.parquet", columns, range(OLD))
    run = LocalRun(folder, tmp_path / "run")
    run.translate()
    write(folder / "b.parquet", columns, range(OLD, NEW))
    assert run.translate(append=True).done == NEW
    assert "order" not in json.loads(Path(run.folder.job).read_text())
    assert run.translate().done == NEW and verify(str(run.output)).is_whole


def test_a_manifest_of_another_name(run: LocalRun, tmp_path: Path, columns: Columns) -> None:
    run.manifest = write(tmp_path / "more.parquet", columns, PLACES["between"])
    assert run.translate(append=True).done == NEW
    assert sorted(run.seen) == ids(columns, range(OLD, NEW))
    assert verify(str(run.output)).is_whole, "it knows where the manifest is now"


def test_without_the_option_a_changed_manifest_is_refused(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, range(NEW))
    before = Path(run.folder.job).read_bytes()
    with pytest.raises(RunFolderError) as refused:
        run.plan()
    text = str(refused.value)
    assert "belongs to another run: manifest.rows.parquet.size: there " in text
    assert "All 10 rows with results are in the manifest as they were" in text
    assert "with --append the 6 others are translated, too" in text
    columns["prompt"][2] = "another"
    write(run.manifest, columns, range(NEW))
    with pytest.raises(RunFolderError, match="Nor would --append do: .*row 'row/002': prompt was"):
        run.plan()
    assert Path(run.folder.job).read_bytes() == before


def test_other_settings_are_refused_as_before(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, range(NEW))
    with pytest.raises(RunFolderError, match="seed: there 0, here 1") as refused:
        run.plan(append=True, seed=1)
    assert "--append" not in str(refused.value)


def test_the_same_rows_written_again(run: LocalRun, columns: Columns) -> None:
    summary, before = Path(run.folder.summary).read_bytes(), files_of(run)
    pq.write_table(pq.read_table(run.manifest), run.manifest, compression="gzip")
    with pytest.raises(RunFolderError, match="with --append the 0 others"):
        run.plan()
    assert run.translate(append=True).done == OLD
    assert not run.seen and files_of(run) == before
    assert Path(run.folder.summary).read_bytes() == summary
    assert run.translate().done == OLD and verify(str(run.output)).is_whole


def test_a_new_folder_is_a_new_run(tmp_path: Path, columns: Columns) -> None:
    run = LocalRun(write(tmp_path / "rows.parquet", columns, range(OLD)), tmp_path / "run")
    assert run.translate(append=True).done == OLD
    assert "appends" not in json.loads(Path(run.folder.job).read_text())


def test_limit_counts_the_rows_with_results_first(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, PLACES["before"])
    assert run.translate(append=True, limit=OLD).rows == OLD
    assert not run.seen
    assert run.translate(append=True, limit=OLD + 3).rows == OLD + 3
    assert sorted(run.seen) == ids(columns, [10, 11, 12])
    assert verify(str(run.output)).is_whole
    assert run.translate(limit=5).rows == OLD + 3, "results beyond a limit stay"
    assert run.translate().rows == NEW and verify(str(run.output)).is_whole
    assert sorted(run.seen) == ids(columns, range(OLD, NEW))


def test_a_run_that_a_limit_cut_gets_its_other_rows_too(tmp_path: Path, columns: Columns) -> None:
    run = LocalRun(write(tmp_path / "rows.parquet", columns, range(OLD)), tmp_path / "run")
    assert run.translate(limit=6).rows == 6
    before = files_of(run)
    write(run.manifest, columns, PLACES["between"])
    assert run.translate(append=True).rows == NEW
    assert before.items() <= files_of(run).items()
    assert len(run.seen) == NEW and verify(str(run.output)).is_whole


def test_an_unfinished_run_goes_on_with_what_is_there(run: LocalRun, columns: Columns) -> None:
    run.part(1).unlink()
    write(run.manifest, columns, PLACES["between"])
    assert run.translate(append=True).done == NEW
    assert sorted(run.seen) == ids(columns, [*range(4, 8), *range(OLD, NEW)])
    assert verify(str(run.output)).is_whole


def test_a_broken_part_runs_again(run: LocalRun, columns: Columns) -> None:
    run.part(0).write_bytes(b"404 Not Found")
    write(run.manifest, columns, range(NEW))
    assert run.translate(append=True).done == NEW
    assert sorted(run.seen) == ids(columns, [*range(4), *range(OLD, NEW)])
    assert verify(str(run.output)).is_whole


def test_an_append_that_died_goes_on_either_way(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, PLACES["between"])
    open_or_create(run.plan(append=True).job)  # and here it was killed
    assert not Path(run.folder.summary).exists()
    with pytest.raises(RunFolderError, match="not finished"):
        export(str(run.output), str(run.output / "set"), "folder")
    assert verify(str(run.output)).rows == OLD
    assert list(run.plan().pending) == list(run.plan(append=True).pending) == [3, 4]
    assert run.translate().done == NEW
    assert sorted(run.seen) == ids(columns, range(OLD, NEW)) and verify(str(run.output)).is_whole


def test_rows_that_came_during_an_append_that_died(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, [10, *range(OLD), 11])
    open_or_create(run.plan(append=True).job)
    write(run.manifest, columns, PLACES["in another order"])
    assert run.translate(append=True).done == NEW
    assert sorted(run.seen) == ids(columns, range(OLD, NEW)) and verify(str(run.output)).is_whole


def test_a_lost_order_is_found_anew(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, PLACES["between"])
    run.translate(append=True)
    before = files_of(run)
    run.seen.clear()
    (order,) = (run.output / "stats").glob("order-*.arrow")
    for damage in (order.unlink, lambda: order.write_bytes(b"?")):
        damage()
        with pytest.raises(RunFolderError, match="expected the order of the run's rows"):
            run.translate()
        with pytest.raises(RunFolderError, match="--append` with the same arguments finds it"):
            verify(str(run.output))
        assert run.translate(append=True).done == NEW
        assert run.translate().done == NEW and verify(str(run.output)).is_whole
    assert not run.seen and files_of(run) == before


def test_another_command_was_faster(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, PLACES["between"])
    planned = run.plan(append=True).job
    run.part(2).unlink()  # so that another order is found
    open_or_create(run.plan(append=True).job)
    with pytest.raises(RunFolderError, match="another command has just appended rows"):
        open_or_create(planned)


def test_failed_and_rejected_rows_stay_unless_retried(
    run: LocalRun, tmp_path: Path, columns: Columns
) -> None:
    gone = columns["content"][2] = str(tmp_path / "gone.png")
    bad = LocalRun(write(run.manifest, columns, range(OLD)), tmp_path / "other")
    assert bad.translate().rejected == 1
    Path(gone).write_bytes(Path(columns["content"][0]).read_bytes())
    write(bad.manifest, columns, PLACES["between"])
    bad.seen.clear()
    assert bad.translate(append=True).rejected == 1
    assert sorted(bad.seen) == ids(columns, range(OLD, NEW))
    bad.seen.clear()
    assert bad.translate(append=True, retry="rejected").rejected == 0
    assert bad.seen == ids(columns, [2]) and verify(str(bad.output)).is_whole


def test_an_id_of_before_is_rejected_in_the_new_row(run: LocalRun, columns: Columns) -> None:
    columns["id"][11] = columns["id"][12] = columns["id"][0]
    before = files_of(run)
    write(run.manifest, columns, PLACES["before"])
    summary = run.translate(append=True)
    assert (summary.done, summary.rejected_reasons) == (NEW - 2, {"duplicate_id": 2})
    assert before.items() <= files_of(run).items(), "the row with the result keeps the id"
    assert verify(str(run.output)).is_whole


def test_rows_that_are_alike_are_told_by_their_order(tmp_path: Path, columns: Columns) -> None:
    run = LocalRun(write(tmp_path / "rows.parquet", columns, [0, 1, 0, 2]), tmp_path / "run")
    assert run.translate().rejected_reasons == {"duplicate_id": 1}
    write(run.manifest, columns, [3, 0, 1, 0, 2, 0])
    assert run.translate(append=True).rejected_reasons == {"duplicate_id": 2}
    assert sorted(run.seen) == ids(columns, range(4)) and verify(str(run.output)).is_whole


def test_samples_of_each_row(tmp_path: Path, columns: Columns) -> None:
    run = LocalRun(write(tmp_path / "rows.parquet", columns, range(4)), tmp_path / "run")
    run.translate(samples_per_row=2)
    write(run.manifest, columns, [4, 0, 1, 2, 3])
    with pytest.raises(RunFolderError, match="samples_per_row: there 2, here 1"):
        run.plan(append=True)
    assert run.translate(append=True, samples_per_row=2).done == 5
    assert len(list((run.output / "samples").rglob("*.png"))) == 5
    assert verify(str(run.output)).is_whole


def test_how_many_are_new_is_said(
    run: LocalRun, columns: Columns, capsys: pytest.CaptureFixture[str]
) -> None:
    write(run.manifest, columns, range(NEW))
    plan = run.plan(append=True)
    print_appended(plan)
    assert capsys.readouterr().err == "append: 6 rows without a result; 10 have one and stay\n"
    run.translate(append=True)
    print_appended(run.plan(append=True))
    assert not capsys.readouterr().err


REFUSED = {
    "a prompt": ("prompt", 3, "other", "row 'row/003': prompt was 'text 3', and is 'other' now"),
    "a content": ("content", 9, "b.png", "row 'row/009': content was '.*', and is 'b.png' now"),
    "an id": ("id", 0, "row/x", "row 'row/000' is gone from the manifest"),
}


@pytest.mark.parametrize(("name", "place", "value", "text"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_changed_rows_are_refused_by_name(
    run: LocalRun, columns: Columns, places: list[int], name: str, place: int, value: str, text: str
) -> None:
    before = {path: path.read_bytes() for path in run.output.rglob("*") if path.is_file()}
    columns[name][place] = value
    write(run.manifest, columns, places)
    with pytest.raises(ManifestError, match=f"1 row with a result is not as .*{text}") as refused:
        run.plan(append=True)
    assert "give a row that is to be made anew another id" in str(refused.value)
    after = {path: path.read_bytes() for path in run.output.rglob("*") if path.is_file()}
    assert after == before


def test_rows_that_are_gone_are_refused_by_name(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, [0, 12, 5])
    with pytest.raises(ManifestError, match="8 rows with results are not as the run has") as gone:
        run.plan(append=True)
    assert "row 'row/001' is gone from the manifest; row 'row/002' is gone" in str(gone.value)
    assert "; and 5 more. Rows with results stay" in str(gone.value)


def test_a_row_without_an_id_is_kept_and_told(
    run: LocalRun, tmp_path: Path, columns: Columns
) -> None:
    columns["id"][3] = None
    bad = LocalRun(write(run.manifest, columns, range(OLD)), tmp_path / "other")
    assert bad.translate().rejected_reasons == {"bad_id": 1}
    write(bad.manifest, columns, PLACES["between"])
    assert bad.translate(append=True).done == NEW - 1
    columns["prompt"][3] = "another"
    write(bad.manifest, columns, PLACES["behind"])
    with pytest.raises(ManifestError, match="a row without a usable id is another one or gone"):
        bad.plan(append=True)


def test_a_result_of_a_row_that_has_one_is_refused(run: LocalRun, columns: Columns) -> None:
    run.part(1).write_bytes(run.part(0).read_bytes())
    write(run.manifest, columns, PLACES["between"])
    with pytest.raises(ManifestError, match="'row/000' has a second result, in results/part-00001"):
        run.plan(append=True)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"split": ["a"] * NEW}, "column 'split': found string; expected none of this name"),
        ({"label": None}, "column 'label': found none of this name; expected int64"),
        ({"label": ["x"] * NEW}, "column 'label': found string; expected int64"),
        ({"mask": [None] * NEW}, "column 'mask': found string; expected none of this name"),
    ],
)
def test_other_columns_are_refused_by_name(
    run: LocalRun, columns: Columns, change: dict[str, Any], found: str
) -> None:
    changed = {name: values for name, values in (columns | change).items() if values is not None}
    write(run.manifest, changed, range(NEW))
    with pytest.raises(ManifestError, match=found):
        run.plan(append=True)


def test_columns_in_another_order_are_written_in_the_runs(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, dict(reversed(columns.items())), range(NEW))
    assert run.translate(append=True).done == NEW
    names = [pq.read_schema(run.part(shard)).names for shard in (0, 3)]
    assert names[0] == names[1]
    assert run.translate().done == NEW and verify(str(run.output)).is_whole


def test_parts_without_digests_are_refused_by_name(run: LocalRun, columns: Columns) -> None:
    part = pq.read_table(run.part(1))
    pq.write_table(part.slice(1), run.part(1))
    write(run.manifest, columns, PLACES["between"])
    with pytest.raises(RunFolderError, match="part-00001.parquet: found no digests of its rows"):
        run.plan(append=True)
    run.part(1).unlink()  # as the message says
    assert run.translate(append=True).done == NEW and verify(str(run.output)).is_whole


def test_fewer_rows_than_parts_are_missing(run: LocalRun, columns: Columns) -> None:
    run.part(0).unlink()
    run.part(1).unlink()
    write(run.manifest, columns, [8, 9, 15])
    with pytest.raises(RunFolderError, match="2 parts of the run are missing, .* fill 1 of them"):
        run.plan(append=True)


def test_verify_repairs_a_run_with_an_order(run: LocalRun, columns: Columns) -> None:
    write(run.manifest, columns, PLACES["in another order"])
    run.translate(append=True)
    calm = sorted(map(str, run.rows()))
    run.seen.clear()
    row = next(row for row in run.rows() if row["id"] == repr(columns["id"][5]))
    (run.output / row["image"].strip("'")).unlink()
    assert verify(str(run.output), repairs=True).rows_to_run == 1
    assert run.translate().done == NEW
    assert run.seen == ids(columns, [5]) and sorted(map(str, run.rows())) == calm


def test_an_order_of_plain_files() -> None:
    plain = RowOrder.plain([5, 4, 1], 4)
    assert plain.starts.tolist() == [0, 4, 5, 9] and plain.counts.tolist() == [4, 1, 4, 1]
    shards = np.repeat(plain.shards, plain.counts)
    again = RowOrder.of_rows(shards, np.arange(10), np.array([0, 5, 9]))
    assert again.name == plain.name and again.rows.tolist() == list(range(10))
