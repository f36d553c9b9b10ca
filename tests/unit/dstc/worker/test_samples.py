"""Several images of a row: files, columns, failures, and shards that run again."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dstc.store.results import save_rows_so_far, write_part
from dstc.worker.attempts import Attempt
from dstc.worker.engine_thread import Engine
from dstc.worker.row import derive_sample_seed, derive_seed
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation
from tests.unit.dstc.one_actor import Columns, MakeJob, Write


def test_samples_are_images_of_their_own_beside_the_one_of_the_row(
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
        for values in (row, alone):
            values.pop("seconds")
        assert row == alone, "image 0 is the row's, as without the option"
        assert [sample["sample"] for sample in samples] == [1, 2]
        for sample in samples:
            seed = derive_sample_seed(row["seed"], sample["sample"])
            assert (sample["seed"], sample["steps"], len(sample["losses"])) == (seed, 5, 5)
            assert sample["image"] == job.run.sample_name(row["id"], sample["sample"])
            data = (output / sample["image"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == sample["image_sha256"]
            with Image.open(output / sample["image"]) as image:
                assert image.text == {  # type: ignore[attr-defined]
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
    snapshot = job.row_count.snapshot()
    assert (snapshot.rows, snapshot.work.rows) == (1, 1)
    assert snapshot.work.underway == pytest.approx(0, abs=1e-9)


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
            failure = {"status": "failed", "image": None, "reason": "non_finite", "error": "NaN"}
            return dataclasses.replace(ended, **failure)  # type: ignore[arg-type]

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
    assert not list(output.rglob("001.png")), "no image of a row that is not done"
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
