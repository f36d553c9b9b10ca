from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dstc_engine import image
from dstc_engine.engine import Engine as GuidedEngine
from dstc_engine.errors import WeightsError
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation
from jobs import progress, translate_shard
from jobs.attempts import Attempt
from jobs.engine_thread import Engine
from jobs.errors import OutputError
from jobs.row import derive_sample_seed, derive_seed
from jobs.settings import make_settings
from jobs.store import storage, weights_bucket
from jobs.store.manifest import SHARD_SCHEMA, ManifestShards, open_manifest, unpack_rows
from jobs.store.results import read_part, read_rows_so_far, save_rows_so_far, write_part
from jobs.store.run_folder import RunFolder
from jobs.translate_shard import ShardTask, TranslateShard, make_engine_factory
from tests.unit.dstc_engine import tiny

Write = Callable[..., Path]
Columns = Callable[[int], dict[str, list[Any]]]


class Job:
    """One actor without Ray, and the shards of a manifest."""

    def __init__(
        self, manifest: Path, output: Path, rows: int, make_engine: Any = None, **more: Any
    ) -> None:
        settings = make_settings(
            manifest=str(manifest),
            output=str(output),
            rows_per_shard=rows,
            slots=3,
            engine="fake",
            **more,
        )
        self.run = RunFolder(str(output))
        self.task = ShardTask(settings, self.run, "run-1", "ffff")
        self.actor = TranslateShard(self.task, make_engine=make_engine)
        plan = open_manifest(str(manifest), rows)
        source = ManifestShards(plan, range(plan.shards), plan.duplicates())
        self.shards = [block for task in source.get_read_tasks(1) for block in task()]

    def translate(self, shard: int = 0) -> pa.Table:
        assert self.shards[shard].schema == SHARD_SCHEMA
        (record,) = self.actor(self.shards[shard]).to_pylist()
        assert record["shard"] == shard
        return unpack_rows(record["rows"])

    def stats(self, shard: int = 0) -> dict[str, Any]:
        return dict(json.loads(Path(self.run.stats(shard)).read_text()))


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[MakeJob]:
    jobs: list[Job] = []

    def make(manifest: Path, rows: int = 100, output: str = "run", **options: Any) -> Job:
        jobs.append(Job(manifest, tmp_path / output, rows, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.actor.close()


def test_rows_come_back_in_order_with_their_pictures(
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
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
            assert picture.text == {  # type: ignore[attr-defined]
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
    write_manifest: Write, pictures: Path, make_job: MakeJob
) -> None:
    good = str(pictures / "p0.png")
    broken, gone = str(pictures / "broken.png"), str(pictures / "gone.png")
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
    results = make_job(write_manifest(columns)).translate()
    assert results.column("reason").to_pylist() == reasons
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


def test_a_picture_that_cannot_be_written_fails_its_row(
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

    class Noting(FakeEngine):
        def add(self, request: Any) -> None:
            seen.append(request.id)
            super().add(request)

    job = make_job(write_manifest(good_rows(5)), make_engine=lambda slots: Noting(TINY64, slots))
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


def test_a_careful_shard_gives_the_same_pictures(
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


def test_pictures_do_not_depend_on_neighbours(
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
    monkeypatch.setattr(translate_shard, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "BEAT_EVERY_S", 0.01)
    gate = threading.Event()
    held: list[Any] = []

    class Stuck(FakeEngine):
        """One row does not move before the gate opens, whichever entered before it."""

        def add(self, request: Any) -> None:
            if request.id == "row/007" and not gate.is_set():
                held.append(request)
            else:
                super().add(request)

        def step(self) -> list[Translation]:
            time.sleep(0.002)
            if held and gate.is_set():
                super().add(held.pop())
            return super().step()

    seen: list[str] = []

    class Noting(FakeEngine):
        def add(self, request: Any) -> None:
            seen.append(request.id)
            super().add(request)

    manifest = write_manifest(good_rows(9))
    dying = make_job(manifest, make_engine=lambda slots: Stuck(TINY64, slots))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(dying.translate)
        end = time.monotonic() + 20
        while not (saved := read_rows_so_far(dying.run, 0)) or saved[0].num_rows < 8:
            assert time.monotonic() < end and not call.done()
            time.sleep(0.01)
        rows, places = saved
        kept = [f"row/{place:03d}" for place in places]
        assert rows.column("id").to_pylist() == kept and "row/007" not in kept

        # As another process would, while the first one hangs.
        fresh = make_job(manifest, make_engine=lambda slots: Noting(TINY64, slots))
        again = fresh.translate()
        assert not set(seen) & set(kept) and len(seen) + len(kept) == 9
        assert fresh.stats()["attempt"] == 2
        gate.set()
        first = call.result(20)
    assert again.column("id").to_pylist() == good_rows(9)["id"]
    assert again.column("image_sha256") == first.column("image_sha256")
    assert repr(again.column("losses").to_pylist()) == repr(first.column("losses").to_pylist())


# -- several pictures of a row -------------------------------------------------------------------


def test_samples_are_pictures_of_their_own_beside_the_one_of_the_row(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    manifest = write_manifest(good_rows(7))
    single = make_job(manifest, output="single").translate().to_pylist()
    job = make_job(manifest, samples_per_row=3)
    rows = job.translate().to_pylist()
    output = Path(job.run.uri)
    for row, alone in zip(rows, single, strict=True):
        samples = row.pop("samples")
        assert alone.pop("samples") is None
        for told in (row, alone):
            told.pop("seconds")
        assert row == alone, "picture 0 is the row's, as without the option"
        assert [sample["sample"] for sample in samples] == [1, 2]
        for sample in samples:
            seed = derive_sample_seed(row["seed"], sample["sample"])
            assert (sample["seed"], sample["steps"], len(sample["losses"])) == (seed, 5, 5)
            assert sample["image"] == job.run.sample_name(row["id"], sample["sample"])
            data = (output / sample["image"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == sample["image_sha256"]
            with Image.open(output / sample["image"]) as picture:
                assert picture.text == {  # type: ignore[attr-defined]
                    "id": row["id"],
                    "seed": str(seed),
                    "preset": "tiny64",
                    "fingerprint": "ffff",
                    "sample": str(sample["sample"]),
                }
    found = {p.relative_to(output).as_posix() for p in output.rglob("*.png")}
    assert len(found) == 21 and len({(output / name).read_bytes() for name in found}) == 21
    # Counted by rows, as without them.
    assert job.stats()["rows"] == 7 and job.stats()["status"] == {"done": 7}


def test_slots_are_filled_with_samples(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    busy: list[int] = []

    class Counting(FakeEngine):
        def step(self) -> list[Translation]:
            ended = super().step()
            busy.append(len(self._running) + len(ended))
            return ended

    job = make_job(
        write_manifest(good_rows(1)),
        make_engine=lambda slots: Counting(TINY64, slots),
        samples_per_row=6,
    )
    assert job.translate().column("status").to_pylist() == ["done"]
    assert busy.count(3) >= 5, "one row keeps three slots busy"


def test_a_row_is_done_when_all_its_samples_are(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    manifest = write_manifest(good_rows(4))
    bad_seed = derive_sample_seed(derive_seed(0, "row/001"), 2)
    is_well = False
    seen: list[tuple[str, int]] = []

    class Sick(FakeEngine):
        def add(self, request: Any) -> None:
            seen.append((request.id, request.seed))
            super().add(request)

        def _end(self, request: Any, losses: Any) -> Translation:
            ended = super()._end(request, losses)
            if request.seed != bad_seed or is_well:
                return ended
            told = {"status": "failed", "picture": None, "reason": "non_finite", "error": "NaN"}
            return dataclasses.replace(ended, **told)  # type: ignore[arg-type]

    def make_engine(slots: int) -> Engine:
        return Sick(TINY64, slots)

    job = make_job(manifest, make_engine=make_engine, samples_per_row=4)
    first = job.translate()
    rows = first.to_pylist()
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    failed = rows[1]
    assert (
        failed["reason"] == "non_finite" and failed["error"] == f"sample 2 (seed {bad_seed}): NaN"
    )
    assert failed["image"] is failed["image_sha256"] is failed["samples"] is None
    assert failed["seed"] == derive_seed(0, "row/001") and failed["steps"] == 5
    output = Path(job.run.uri)
    assert not list(output.rglob("001.png")), "no picture of a row that is not done"
    # The row runs again with all its samples, and nothing else does.
    write_part(job.run, 0, first)
    seen.clear()
    is_well = True
    again = job.translate().to_pylist()
    assert {name for name, _ in seen} == {"row/001"} and len(seen) == 4
    assert repr([again[n] for n in (0, 2, 3)]) == repr([rows[n] for n in (0, 2, 3)])
    assert again[1]["status"] == "done" and len(again[1]["samples"]) == 3
    assert len(list(output.rglob("001.png"))) == 4


def test_a_careful_shard_gives_the_same_samples(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    together: list[set[str]] = []

    class Noting(FakeEngine):
        def step(self) -> list[Translation]:
            ended = super().step()
            names = {r.id for r, _ in self._running} | {t.id for t in ended}
            together.append(names)
            return ended

    job = make_job(
        write_manifest(good_rows(3)),
        make_engine=lambda slots: Noting(TINY64, slots),
        samples_per_row=3,
    )
    calm = job.translate().to_pylist()
    for _ in range(2):
        Attempt(job.run, 0)
    together.clear()
    careful = job.translate().to_pylist()
    for ours, theirs in zip(careful, calm, strict=True):
        assert ours["image_sha256"] == theirs["image_sha256"]
        assert [s["image_sha256"] for s in ours["samples"]] == [
            s["image_sha256"] for s in theirs["samples"]
        ]
    assert all(len(names) == 1 for names in together), "one row at a time"


def test_samples_kept_aside_come_back_whole(
    write_manifest: Write, good_rows: Columns, make_job: MakeJob
) -> None:
    manifest = write_manifest(good_rows(3))
    job = make_job(manifest, samples_per_row=2)
    rows = job.translate()
    Attempt(job.run, 0)  # as a process that died would leave it
    save_rows_so_far(job.run, 0, rows.slice(0, 2), [0, 1])
    seen: list[str] = []

    class Noting(FakeEngine):
        def add(self, request: Any) -> None:
            seen.append(request.id)
            super().add(request)

    fresh = make_job(manifest, make_engine=lambda slots: Noting(TINY64, slots), samples_per_row=2)
    again = fresh.translate()
    assert seen == ["row/002"] * 2
    assert repr(again.column("samples").to_pylist()[:2]) == repr(
        rows.column("samples").to_pylist()[:2]
    )
    assert again.schema == rows.schema


# -- what rows share, and masks ------------------------------------------------------------------


def test_shared_pictures_are_fetched_once(
    write_manifest: Write,
    good_rows: Columns,
    pictures: Path,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    read = storage.read_bytes

    def counted(uri: str, *patience: Any) -> bytes:
        if uri.endswith(".png"):
            fetched.append(Path(uri).name)
        return read(uri, *patience)

    monkeypatch.setattr(storage, "read_bytes", counted)
    columns = good_rows(48)
    columns["style"] = [str(pictures / f"p{n % 2}.png") for n in range(48)]
    results = make_job(write_manifest(columns), samples_per_row=2).translate()
    assert set(results.column("status").to_pylist()) == {"done"}
    # Six contents, two styles; a picture is kept for each column.
    assert sorted(fetched) == sorted([f"p{n}.png" for n in range(6)] + ["p0.png", "p1.png"])


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_mask_in_a_manifest_keeps_the_content_to_the_pixel(
    fit: str, write_manifest: Write, make_job: MakeJob, tmp_path: Path
) -> None:
    # The whole way: files, decoding, the engine with tiny networks, PNG.
    preset = dataclasses.replace(tiny.PRESET, fit=fit, match_colours=True)
    models = tiny.make_models()
    content = tiny.picture(1, 64, 48)
    mask = np.zeros((64, 48), np.uint8)
    mask[30:, :25] = 255
    Image.fromarray(content).save(tmp_path / "c.png")
    Image.fromarray(mask).save(tmp_path / "half.png")
    Image.fromarray(np.stack([mask] * 3, axis=-1)).save(tmp_path / "half.jpg", quality=60)
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "black.png")
    Image.fromarray(np.full_like(mask, 255)).save(tmp_path / "white.png")
    Image.fromarray(mask[:32]).save(tmp_path / "small.png")
    Image.fromarray(tiny.picture(2)).save(tmp_path / "s.png")
    masks = [None, "half.png", "half.jpg", "black.png", "white.png", "small.png"]
    columns = {
        "id": [str(mask) for mask in masks],
        "content": ["c.png"] * 6,
        "style": ["s.png"] * 6,
        "mask": masks,
        "seed": [5] * 6,
    }
    job = make_job(
        write_manifest(columns), make_engine=lambda slots: GuidedEngine(models, preset, slots)
    )
    rows = {row["id"]: row for row in job.translate().to_pylist()}
    small = rows.pop("small.png")
    assert (small["status"], small["reason"]) == ("rejected", "bad_request")
    assert "mask is (32, 48); expected the content's (64, 48)" in small["error"]
    made = {}
    for name, row in rows.items():
        assert row["status"] == "done"
        with Image.open(Path(job.run.uri) / row["image"]) as opened:
            made[name] = np.asarray(opened)
    size = tiny.SIZE
    kept = image.fit(content, size, fit)
    kept = image.unpad(kept, 64, 48) if fit == "pad" else kept
    assert np.array_equal(made["black.png"], kept) and rows["black.png"]["steps"] == 0
    assert np.array_equal(made["white.png"], made["None"])
    assert np.array_equal(made["half.jpg"], made["half.png"]), "what JPEG blurs is set right"
    # The mask's edge lies at row 30 of 64 and column 25 of 48, and the crop starts at row 8.
    row_edge = (30 - 8) * 16 // 48 if fit == "crop" else 30 * 16 // 64
    column_edge = -(-25 * kept.shape[1] // 48)
    assert np.array_equal(made["half.png"][:row_edge], kept[:row_edge])
    assert np.array_equal(made["half.png"][:, column_edge:], kept[:, column_edge:])
    inside = (slice(row_edge + 1, None), slice(0, column_edge - 1))
    assert (made["half.png"][inside] != kept[inside]).mean() > 0.8


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
    assert make_engine_factory(task_of(tmp_path, "tiny64", "s3://bucket/weights"))
    assert seen == [taken]


def test_an_actor_without_weights_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(WeightsError, match="`dstc weights fetch --preset imagenet256-text`"):
        make_engine_factory(task_of(tmp_path, "imagenet256-text", None))
