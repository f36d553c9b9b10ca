"""Another run in a report: which rows of it are found, what is shown of them, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dstc.errors import RunFolderError, SettingsError, StorageError
from dstc.report import MAX_CARDS, make_report, serve_report, write_report
from dstc.reporting import beside as beside_module
from dstc.reporting.beside import read_beside
from dstc.run_handle import Run
from dstc.store.json_record import Record
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder

NOTHING = Record("job.json", {})


def _write(
    folder: Path, parts: list[list[str]], outcomes: Mapping[str, Outcome] | None = None
) -> RunFolder:
    """A finished run with rows of these ids; those of no outcome are done."""
    run = RunFolder(str(folder))
    for shard, ids in enumerate(parts):
        rows = pa.table({"id": pa.array(ids, pa.string()), "prompt": ["x"] * len(ids)})
        done = [(outcomes or {}).get(row_id) or _done(run, row_id) for row_id in ids]
        write_part(run, shard, result_table(rows, done))
    _json(run.job, {"run_id": folder.name, "preset": {"name": "tiny64"}})
    _json(run.summary, {"rows": sum(map(len, parts))})
    return run


def _done(run: RunFolder, row_id: str, **fields: Any) -> Outcome:
    image = Path(run.image(row_id))
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(image)
    return Outcome("done", image=run.image_name(row_id), seed=1, steps=2, **fields)


def _json(path: str, values: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values))


def _page(run: RunFolder, other: RunFolder) -> str:
    return make_report(run.uri, page_folder=run.uri, beside=other.uri).decode()


def test_a_card_shows_the_other_run_s_image_and_says_why_there_is_none(tmp_path: Path) -> None:
    run = _write(tmp_path / "here", [["one", "two", "three", "four"]])
    there = RunFolder(str(tmp_path / "a <b>"))
    failed = Outcome("failed", "fetch_error", "no answer")
    student = _done(there, "one", made_by="student", flagged="range")
    other = _write(tmp_path / "a <b>", [["two"], ["one", "three"]], {"one": student, "two": failed})
    page = _page(run, other)
    assert page.count('<figure data-name="beside">') == 4
    assert page.count('alt="result of one in a &lt;b&gt;"') == 1 and "a <b>" not in page
    assert "beside: a &lt;b&gt;, by student, flagged range" in page
    assert 'href="../a%20%3Cb%3E/images/' in page, "the file itself is a click away"
    assert "beside: failed: fetch_error" in page and "beside: not in that run" in page
    assert "3 of 4 rows of this run that ended are in a &lt;b&gt; too." in page
    assert "With an image in both: 2." in page
    assert '<figure data-name="beside">' not in make_report(run.uri).decode()


def test_an_image_of_the_other_run_may_lie_in_a_container(tmp_path: Path) -> None:
    run = _write(tmp_path / "here", [["one"]])
    other = _write(tmp_path / "there", [["one"]])
    file = Path(other.image("one"))
    name = f"images/00000-{'ab' * 8}.tar"
    data = file.read_bytes()
    (Path(other.uri) / name).write_bytes(b"x" * 512 + data)
    file.unlink()
    image = f"{name}#bytes=512-{511 + len(data)}"
    rows = pa.table({"id": ["one"], "prompt": ["x"]})
    write_part(other, 0, result_table(rows, [Outcome("done", image=image, steps=2)]))
    assert 'alt="result of one in there"' in _page(run, other)


def test_only_what_is_looked_for_is_kept_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_module, "_IDS", 4)
    twice = ["b", "a", "c", "a", *(f"row-{n}" for n in range(9)), "d"]
    double = Outcome("rejected", "duplicate_id", "of an earlier row")
    run = _write(tmp_path / "run", [["x"], twice], {"c": double})
    found = read_beside(run, NOTHING, NOTHING, [0, 1, 7], {"a", "c", "d", "none"})
    places = {row_id: (row["shard"], row["offset"]) for row_id, row in found.rows.items()}
    assert places == {"a": (1, 1), "c": (1, 2), "d": (1, 13)}
    assert "prompt" not in found.rows["a"], "columns that no page needs are not read"
    assert found.parts == [(0, 1), (1, 14)] and found.ended == 15
    assert found.image_of("c") is None and found.why_none("c") == "rejected: duplicate_id"
    (bad,) = found.unreadable
    assert bad.startswith("part-00007.parquet: ") and not found.is_finished
    assert found.why_none("none") == "not in what can be read of that run"


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_ids_may_be_of_any_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    run = RunFolder(str(tmp_path))
    rows = pa.table({"id": pa.array(["a", None, "é"], pa.string()).cast(kind)})
    write_part(run, 0, result_table(rows, [Outcome("failed", "late")] * 3))
    assert list(read_beside(run, NOTHING, NOTHING, [0], {"é"}).rows) == ["é"]


def test_a_run_beside_that_is_not_finished_is_no_error(tmp_path: Path) -> None:
    run = _write(tmp_path / "here", [["one", "two"]])
    other = _write(tmp_path / "there", [["one"]])
    Path(other.summary).unlink()
    page = _page(run, other)
    assert "there, the run beside, is not finished: 1 of its rows has a result by now." in page
    assert "no result in that run yet" in page
    Path(other.part(0)).unlink()
    page = _page(run, other)
    assert "0 of its rows have a result by now." in page and "0 of 2 rows" in page


def test_a_run_that_has_no_results_yet_is_no_error(tmp_path: Path) -> None:
    run, other = _write(tmp_path / "here", []), _write(tmp_path / "there", [["one"]])
    assert "0 of 0 rows of this run that ended are in there too." in _page(run, other)


def test_what_cannot_stand_beside_a_run_is_refused_and_nothing_written(tmp_path: Path) -> None:
    run = _write(tmp_path / "here", [["one"]])
    stranger = _write(tmp_path / "there", [["1"]])
    (tmp_path / "link").symlink_to(run.uri)
    (tmp_path / "empty").mkdir()
    for beside, error, words in (
        (run.uri + "/", SettingsError, "found the run itself; expected another run of its rows"),
        (tmp_path / "link", SettingsError, "found the run itself"),
        (tmp_path / "empty", RunFolderError, "empty: found nothing; expected a run folder that"),
        (tmp_path / "none", RunFolderError, "none: found nothing; expected a run folder that"),
        (stranger.uri, RunFolderError, "none of the ids of the run among its 1 rows; expected a"),
        ("s3://user:secret@bucket/run", StorageError, "beside s3://"),
    ):
        with pytest.raises(error, match="^beside ") as raised:
            write_report(run.uri, beside=beside)
        assert words in str(raised.value) and "secret" not in str(raised.value)
        with pytest.raises(error):
            serve_report(run.uri, 0, beside=beside)
    assert not os.path.exists(run.report)


def test_a_large_run_is_told_the_other_way_round(tmp_path: Path) -> None:
    ids = [f"{n:03d}" for n in range(2 * MAX_CARDS)]
    run, small = _write(tmp_path / "large", [ids]), _write(tmp_path / "small", [["001"]])
    with pytest.raises(RunFolderError, match=r"found none of the 200 ids looked for among its 1"):
        make_report(run.uri, beside=small.uri)
    assert "1 of 1 rows of this run that ended is in large too." in _page(small, run)
    page = _page(run, _write(tmp_path / "whole", [ids]))
    assert "200 of 200 rows, evenly spread over this run, are in whole too." in page


def test_a_run_of_python_reports_beside_another(tmp_path: Path) -> None:
    run, other = _write(tmp_path / "here", [["one"]]), _write(tmp_path / "there", [["one"]])
    path = Run(run.uri).report(beside=tmp_path / "there")
    assert path == run.report and other.uri in Path(path).read_text()
