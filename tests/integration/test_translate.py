from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.errors import RunFolderError
from dstc.planning.settings import Settings, make_settings
from dstc.translate import OK, SOME_FAILED, run
from dstc.worker.row import derive_retry_seed, derive_seed
from dstc_engine.presets import TINY64
from tests.outcomes import without_times
from tests.ray_session import RAY_WARNINGS, image, result_rows, workers
from tests.seeded_engine import structure_of

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]

Columns = Callable[[int], dict[str, list[Any]]]


def settings_of(manifest: Path, output: Path, **values: Any) -> Settings:
    defaults = {"engine": "fake", "rows_per_shard": 4, "slots": 3}
    return make_settings(manifest=str(manifest), output=str(output), **{**defaults, **values})


def modified(folder: Path) -> dict[Path, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


class FlakyServer:
    """Serves one image over HTTP: 503 until `is_well`."""

    def __init__(self, data: bytes) -> None:
        self.is_well = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if owner.is_well else 503)
                body = data if owner.is_well else b""
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/flaky.png?signature=s3cr3t"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def flaky(images: Path) -> Iterator[FlakyServer]:
    server = FlakyServer((images / "p0.png").read_bytes())
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_run_with_every_kind_of_row_then_again_then_retry_failed(
    images: Path, tmp_path: Path, good_rows: Columns, flaky: FlakyServer
) -> None:
    rows = 26
    columns: dict[str, Any] = good_rows(rows)
    columns["content"] = [Path(uri).name for uri in columns["content"]]  # relative ones
    columns["seed"] = pa.array([None] * 25 + [7], pa.int64())
    columns["boxes"] = pa.array([[[n, n + 1]] for n in range(rows)], pa.list_(pa.list_(pa.int16())))
    expected = dict.fromkeys(range(rows), None)
    for number, column, value, reason in [
        (1, "id", None, "bad_id"),
        (2, "id", "a/../b", "bad_id"),
        (6, "id", "row/003", "duplicate_id"),
        (23, "id", "row/005", "duplicate_id"),
        (8, "content", None, "no_content"),
        (9, "prompt", None, "no_target"),
        (10, "content", "gone.png", "missing_picture"),
        (11, "content", "broken.png", "unreadable_picture"),
        (12, "content", flaky.url, "fetch_error"),
    ]:
        columns[column][number] = value
        expected[number] = reason  # type: ignore[assignment]
    manifest = images / "everything.parquet"
    pq.write_table(pa.table(columns), manifest, row_group_size=7)
    output = tmp_path / "run"
    settings = settings_of(manifest, output)

    assert run(settings) == SOME_FAILED
    first = result_rows(output)
    assert [row["reason"] for row in first] == list(expected.values())
    assert [row["id"] for row in first] == columns["id"]
    assert [row["boxes"] for row in first] == [[[n, n + 1]] for n in range(rows)]
    part = pq.read_schema(output / "results" / "part-00000.parquet")
    assert part.field("boxes").type == pa.list_(pa.list_(pa.int16()))
    assert first[25]["seed"] == 7
    for row in first:
        if row["status"] == "done":
            assert image(output, row).shape == (64, 64, 3)
    images_there = {path.relative_to(output) for path in (output / "images").rglob("*.png")}
    assert images_there == {Path(row["image"]) for row in first if row["image"]}
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["rows"], summary["done"], summary["rejected"], summary["failed"]) == (
        26,
        17,
        8,
        1,
    )
    assert summary["failed_reasons"] == {"fetch_error": 1}
    assert {path.name for path in output.iterdir()} == {
        "job.json",
        "images",
        "progress.json",
        "results",
        "stats",
        "summary.json",
    }
    assert "s3cr3t" not in first[12]["error"]

    before = modified(output)
    assert run(settings) == SOME_FAILED
    assert modified(output) == before, "nothing is computed or written twice"

    flaky.is_well = True
    assert run(settings_of(manifest, output, retry="failed", max_rejected=0.3)) == SOME_FAILED
    assert run(settings_of(manifest, output, max_rejected=8 / 26)) == OK
    again = result_rows(output)
    assert again[12]["status"] == "done"
    assert again[:12] == first[:12] and again[13:] == first[13:], "other rows are kept as they were"
    kept = output / "results" / "part-00000.parquet"
    assert kept.stat().st_mtime_ns == before[kept], "shards without failed rows do not run"
    # Rows 13 .. 15 are in the same shard as the failed one, and are not computed again.
    neighbor = output / again[13]["image"]
    assert neighbor.stat().st_mtime_ns == before[neighbor]


def test_limit_then_the_rest_and_images_depend_on_their_row_alone(
    tmp_path: Path, good_rows: Columns
) -> None:
    columns = good_rows(22)
    manifest = tmp_path / "manifest.parquet"
    pq.write_table(pa.table(columns), manifest)
    output = tmp_path / "run"

    assert run(settings_of(manifest, output, limit=6)) == OK
    limited = result_rows(output)
    assert [row["id"] for row in limited] == columns["id"][:6]
    before = modified(output / "images")

    assert run(settings_of(manifest, output, actors=2, fake_step_seconds=0.01)) == OK
    whole = result_rows(output)
    assert [row["id"] for row in whole] == columns["id"]
    assert whole[:6] == limited
    assert before.items() <= modified(output / "images").items()

    # Another order, other shards, one actor: the same images, byte for byte.
    turned = tmp_path / "turned.parquet"
    pq.write_table(pa.table({k: v[::-1] for k, v in columns.items()}), turned)
    assert run(settings_of(turned, tmp_path / "other", rows_per_shard=7)) == OK
    other = {row["id"]: row for row in result_rows(tmp_path / "other")}
    for row in whole:
        assert other[row["id"]]["image_sha256"] == row["image_sha256"]
        assert np.array_equal(image(tmp_path / "other", row), image(output, row))
    assert len(workers(output)) >= 2 > len(workers(tmp_path / "other"))

    with pytest.raises(RunFolderError, match="seed: there 0, here 1"):
        run(settings_of(manifest, output, seed=1))
    with pytest.raises(RunFolderError, match=f"preset.skip: there {TINY64.skip}, here 2"):
        run(settings_of(manifest, output, set={"skip": "2"}))


def test_auto_slots_are_settled_once_for_a_run(tmp_path: Path, good_rows: Columns) -> None:
    manifest, output = tmp_path / "manifest.parquet", tmp_path / "run"
    pq.write_table(pa.table(good_rows(6)), manifest)
    assert run(settings_of(manifest, output, slots="auto", limit=2)) == OK
    assert json.loads((output / "job.json").read_text())["identity"]["engine"]["slots"] == 8
    with pytest.raises(RunFolderError, match="engine.slots: there 8, here 3"):
        run(settings_of(manifest, output))
    assert run(settings_of(manifest, output, slots="auto")) == OK
    assert {row["slots"] for row in result_rows(output)} == {8}


def test_several_images_of_each_row(
    tmp_path: Path, good_rows: Columns, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.parquet"
    pq.write_table(pa.table(good_rows(9)), manifest)
    single, output = tmp_path / "single", tmp_path / "run"
    assert run(settings_of(manifest, single)) == OK
    settings = settings_of(manifest, output, samples_per_row=3)
    capsys.readouterr()
    assert run(settings) == OK
    said = capsys.readouterr().err.splitlines()
    progress_lines = [line for line in said if "/9 rows (" in line]
    assert progress_lines[-1].startswith("9/9 rows (100.0%)")

    rows, alone = result_rows(output), result_rows(single)
    assert [row["id"] for row in rows] == good_rows(9)["id"], "a row each, not one for each image"
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["rows"], summary["done"], summary["rows_run"]) == (9, 9, 9)
    progress = json.loads((output / "progress.json").read_text())
    assert (progress["rows"], progress["rows_ended"]) == (9, 9)
    for row, other in zip(rows, alone, strict=True):
        assert row["image_sha256"] == other["image_sha256"] and other["samples"] is None
        pixels = [image(output, sample).tobytes() for sample in (row, *row["samples"])]
        assert len(set(pixels)) == 3
    assert len(list((output / "samples").rglob("*.png"))) == 18

    before = modified(output)
    assert run(settings) == OK
    assert modified(output) == before
    with pytest.raises(RunFolderError, match="samples_per_row: there 3, here 2"):
        run(settings_of(manifest, output, samples_per_row=2))


def test_flagged_rows_are_told_then_tried_with_other_seeds(
    tmp_path: Path, good_rows: Columns
) -> None:
    columns = good_rows(22)
    manifest, output = tmp_path / "manifest.parquet", tmp_path / "run"
    pq.write_table(pa.table(columns), manifest)
    limit = 0.6

    def translate(retry: str | None = None) -> list[dict[str, Any]]:
        engine, fields = "tests.seeded_engine:SEEDED", {"gate_structure": str(limit)}
        assert run(settings_of(manifest, output, engine=engine, set=fields, retry=retry)) == OK
        return result_rows(output)

    def counted() -> tuple[int, dict[str, int]]:
        summary = json.loads((output / "summary.json").read_text())
        assert summary["done"] == 22
        return summary["flagged"], summary["flagged_reasons"]

    rows = translate()
    flagged = [row["id"] for row in rows if row["flagged"]]
    assert flagged == [i for i in columns["id"] if structure_of(derive_seed(0, i)) > limit]
    assert {row["flagged"] for row in rows} == {None, "structure"}
    assert counted() == (7, {"structure": 7})
    before = modified(output)
    translate()
    assert modified(output) == before, "nothing is tried again without being asked for"

    for retry, left in ((1, 1), (2, 1)):
        before, earlier, rows = modified(output), rows, translate("flagged")
        better = set()
        for old, new in zip(earlier, rows, strict=True):
            other = derive_retry_seed(derive_seed(0, old["id"]), retry)
            if old["flagged"] and structure_of(other) < structure_of(old["seed"]):
                better.add(output / new["image"])
                assert new["seed"] == other
                assert (new["flagged"] is not None) == (structure_of(other) > limit)
            else:
                assert without_times([{**new, "retries": 0}]) == without_times(
                    [{**old, "retries": 0}]
                )
            assert new["retries"] == old["retries"] + (old["flagged"] is not None)
            data = (output / new["image"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == new["image_sha256"]
        assert better and counted() == (left, {"structure": left})
        pngs, parts = output.rglob("*.png"), (output / "results").glob("*.parquet")
        now = modified(output)
        assert {path for path in pngs if now[path] != before.get(path)} == better
        ran = {n // 4 for n, row in enumerate(earlier) if row["flagged"]}
        rewritten = {int(path.stem[-5:]) for path in parts if now[path] != before[path]}
        assert rewritten == ran, "shards without flagged rows do not run"
    assert {row["retries"] for row in rows} == {0, 1, 2}
    progress = json.loads((output / "progress.json").read_text())
    assert (progress["flagged"], progress["flagged_reasons"]) == (1, {"structure": 1})
