from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from dstc.engines.fake import FAKE
from dstc.engines.guided import GUIDED
from dstc.errors import OutputError
from dstc.planning.settings import make_settings
from dstc.store import storage, weights_bucket
from dstc.store.results import read_part, read_rows_so_far, write_part
from dstc.store.run_folder import RunFolder
from dstc.worker import shard_run, translate_shard
from dstc.worker.attempts import Attempt
from dstc.worker.engine_thread import Engine
from dstc.worker.row import derive_seed
from dstc.worker.shard_task import ShardTask
from dstc_engine.errors import PresetError, WeightsError
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation
from tests.stuck_engine import NotingEngine, StuckEngine
from tests.unit.dstc.one_actor import Columns, MakeJob, Write


def test_rows_come_back_in_order_with_their_images(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    columns = good_rows(10)
    job = make_job(write_manifest({**columns, "label": list(range(10))}))
    results = job.translate()
    assert results.column("id").to_pylist() == columns["id"]
    assert results.column("label").to_pylist() == list(range(10))
    for row in results.to_pylist():
        assert (row["status"], row["reason"], row["steps"]) == ("done", None, 5)
        assert row["seed"] == derive_seed(0, row["id"])
        assert [loss["index"] for loss in row["losses"]] == [4, 3, 2, 1, 0]
        path = Path(job.run.uri) / row["image"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["image_sha256"]
        with Image.open(path) as image:
            assert image.size == (64, 64)
            assert image.text == {  # type: ignore[attr-defined]
                "id": row["id"],
                "seed": str(row["seed"]),
                "preset": "tiny64",
                "fingerprint": "ffff",
            }
    stats = job.stats()
    assert stats["state"] == "done" and stats["status"] == {"done": 10}
    assert 0 < stats["occupancy"] <= 1
    assert set(stats["seconds"]) == {"shard", "fetch", "queue", "translate", "write"}


def test_every_kind_of_bad_row_is_a_result_row(
    write_manifest: Write, images: Path, make_job: MakeJob
) -> None:
    good = str(images / "p0.png")
    broken, gone = str(images / "broken.png"), str(images / "gone.png")
    rows: list[tuple[str | None, str | None, str | None, str | None, int | None, str | None]] = [
        ("ok", good, None, "x", None, None),
        (None, good, None, "x", None, "bad_id"),
        ("../up", good, None, "x", None, "bad_id"),
        ("ok", good, None, "x", 5, "duplicate_id"),
        ("null", None, None, "x", None, "no_content"),
        ("target", good, None, None, None, "no_target"),
        ("seed", good, None, "x", -4, "bad_seed"),
        ("gone", gone, None, "x", None, "missing_picture"),
        ("style", good, gone, "x", None, "missing_picture"),
        ("broken", broken, None, "x", None, "unreadable_picture"),
        ("uri", "nosuch://a", None, "x", None, "bad_uri"),
        ("last", good, good, None, 3, None),
    ]
    names = ("id", "content", "style", "prompt", "seed", "reason")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    reasons = columns.pop("reason")
    job = make_job(write_manifest(columns))
    results = job.translate()
    assert results.column("reason").to_pylist() == reasons
    snapshot = job.row_count.snapshot()
    assert (snapshot.rows, snapshot.work.rows, snapshot.work.underway) == (
        len(rows),
        reasons.count(None),
        0,
    )
    expected = ["done" if reason is None else "rejected" for reason in reasons]
    assert results.column("status").to_pylist() == expected
    assert results.column("seed").to_pylist()[6] == -4
    for row in results.to_pylist():
        assert (row["image"] is None) == (row["status"] == "rejected") == (row["error"] is not None)


def test_a_broken_step_fails_its_row_only(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    class Fussy(FakeEngine):
        def step(self) -> list[Translation]:
            ended = super().step()
            if any(request.id == "row/004" for request, _ in self._running):
                raise RuntimeError("no")
            return ended

    job = make_job(write_manifest(good_rows(9)), make_engine=lambda slots: Fussy(TINY64, slots))
    results = job.translate().to_pylist()
    assert [row["status"] for row in results].count("done") == 8
    assert (results[4]["status"], results[4]["reason"]) == ("failed", "engine_error")
    snapshot = job.row_count.snapshot()
    assert (snapshot.rows, snapshot.work.rows, snapshot.work.underway) == (9, 9, 0)


def test_a_image_that_cannot_be_written_fails_its_row(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    job = make_job(write_manifest(good_rows(3)))
    blocked = Path(job.run.image("row/001")).parent
    blocked.parent.mkdir(parents=True)
    blocked.write_bytes(b"a file where a folder should be")
    results = job.translate().to_pylist()
    assert [row["status"] for row in results] == ["done", "failed", "done"]
    assert results[1]["reason"] == "write_error"


def test_only_failed_rows_of_a_finished_shard_run_again(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    seen: list[str] = []

    job = make_job(
        write_manifest(good_rows(5)), make_engine=lambda slots: NotingEngine(slots, seen)
    )
    first = job.translate()
    statuses = pa.array(["done", "failed", "rejected", "failed", "done"])
    place = first.schema.get_field_index("status")
    write_part(job.run, 0, first.set_column(place, first.schema.field("status"), statuses))
    seen.clear()
    again = job.translate()
    assert sorted(seen) == ["row/001", "row/003"]
    assert again.column("id").to_pylist() == first.column("id").to_pylist()
    statuses_again = again.column("status").to_pylist()
    assert statuses_again == ["done", "done", "rejected", "done", "done"]
    assert read_part(job.run, 0).schema == again.schema


def test_two_calls_share_the_engine(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    most = 0
    gate = threading.Event()

    class Counting(FakeEngine):
        def step(self) -> list[Translation]:
            nonlocal most
            gate.wait(10)
            ended = super().step()
            shards = {int(request.id[4:]) // 2 for request, _ in self._running}
            most = max(most, len(shards))
            return ended

    def make_engine(slots: int) -> Engine:
        return Counting(TINY64, slots)

    job = make_job(write_manifest(good_rows(4)), rows=2, make_engine=make_engine)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(job.translate, shard) for shard in (0, 1)]
        threading.Timer(0.5, gate.set).start()
        results = [call.result(20) for call in calls]
    assert most == 2, "rows of both shards were in the slots together"
    assert [r.column("status").to_pylist() for r in results] == [["done"] * 2] * 2


def test_a_careful_shard_gives_the_same_images(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    job = make_job(write_manifest(good_rows(4)))
    calm = job.translate().column("image_sha256").to_pylist()
    for _ in range(2):
        Attempt(job.run, 0)
    (Path(job.run.uri) / "images").rename(Path(job.run.uri) / "old")
    careful = job.translate()
    assert job.stats()["attempt"] == 3
    assert careful.column("image_sha256").to_pylist() == calm
    snapshot = job.row_count.snapshot()
    assert (snapshot.rows, snapshot.work.rows, snapshot.work.underway) == (4, 8, 0), (
        "each was done twice"
    )


def test_images_do_not_depend_on_neighbors(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob, tmp_path: Path
) -> None:
    columns = good_rows(7)
    whole = make_job(write_manifest(columns)).translate()
    backwards = {name: values[::-1] for name, values in columns.items()}
    other = make_job(write_manifest(backwards, "other.parquet"), rows=3)
    turned = pa.concat_tables([other.translate(n) for n in range(3)])
    assert (
        turned.column("image_sha256").to_pylist()
        == (whole.column("image_sha256").to_pylist()[::-1])
    )
    assert np.all(turned.column("seed").to_numpy() == whole.column("seed").to_numpy()[::-1])


def test_rows_that_ended_before_a_process_died_do_not_run_again(
    write_manifest: Write,
    good_rows: Columns,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_run, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(translate_shard, "BEAT_EVERY_S", 0.01)
    gate = threading.Event()
    seen: list[str] = []

    manifest = write_manifest(good_rows(9))
    dying = make_job(manifest, make_engine=lambda slots: StuckEngine(slots, "row/007", gate))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(dying.translate)
        end = time.monotonic() + 20
        while not (saved := read_rows_so_far(dying.run, 0)) or saved[0].num_rows < 8:
            assert time.monotonic() < end and not call.done()
            time.sleep(0.01)
        rows, places = saved
        kept = [f"row/{place:03d}" for place in places]
        assert rows.num_rows == len(kept) and "row/007" not in kept

        # As another process would, while the first one hangs.
        fresh = make_job(manifest, make_engine=lambda slots: NotingEngine(slots, seen))
        again = fresh.translate()
        assert not set(seen) & set(kept) and len(seen) + len(kept) == 9
        assert fresh.stats()["attempt"] == 2
        gate.set()
        first = call.result(20)
    assert again.column("id").to_pylist() == good_rows(9)["id"]
    assert again.column("image_sha256") == first.column("image_sha256")
    assert repr(again.column("losses").to_pylist()) == repr(first.column("losses").to_pylist())


def test_storage_that_takes_nothing_any_more_ends_the_job_and_fails_no_row(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(uri: str, data: bytes, patience: Any = None) -> None:
        if uri.endswith(".png"):
            raise OSError(errno.ENOSPC, "No space left on device")

    job = make_job(write_manifest(good_rows(5)))
    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(OutputError, match=r"\.png cannot be written: OSError: .*No space left"):
        job.translate()


# -- weights ---------------------------------------------------------------------------------------


def task_of(tmp_path: Path, preset: str, weights: str | None) -> ShardTask:
    settings = make_settings(manifest="m.parquet", output=str(tmp_path / "run"), preset=preset)
    return ShardTask(settings, RunFolder(settings.output), "run-1", "ffff", weights=weights)


@pytest.mark.parametrize(
    ("own", "taken"), [("", "s3://bucket/weights"), ("/mnt/weights", "/mnt/weights")]
)
def test_an_actor_takes_the_drivers_bucket_unless_its_node_names_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, taken: str
) -> None:
    seen = []
    monkeypatch.setattr(
        weights_bucket, "bring", lambda preset: seen.append(os.environ["DSTC_WEIGHTS"])
    )
    monkeypatch.setenv("DSTC_WEIGHTS", own)
    assert GUIDED.make(task_of(tmp_path, "tiny64", "s3://bucket/weights"))
    assert seen == [taken]


def test_what_the_networks_cannot_do_ends_the_actor_and_not_its_rows(tmp_path: Path) -> None:
    task = task_of(tmp_path, "tiny64", None)
    changed = task.settings.model_copy(update={"set": {"prior_class": "3"}})
    with pytest.raises(PresetError, match="prior_class is 3"):
        GUIDED.make(replace(task, settings=changed))


@pytest.mark.parametrize("deterministic", [True, False])
def test_an_actors_engine_asks_for_repeatable_kernels_where_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as it was")
    task = task_of(tmp_path, "tiny64", None)
    settings = task.settings.model_copy(update={"deterministic": deterministic})
    try:
        FAKE.make(replace(task, settings=settings))(1)
        assert not torch.are_deterministic_algorithms_enabled(), "the fake engine ignores it"
        GUIDED.make(replace(task, settings=settings))
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_actor_without_weights_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(WeightsError, match="`dstc weights fetch --preset imagenet256-text`"):
        GUIDED.make(task_of(tmp_path, "imagenet256-text", None))
