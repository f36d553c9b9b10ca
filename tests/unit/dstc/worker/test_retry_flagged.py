"""Flagged rows, and `--retry flagged`: which rows run, what stays, what attempts leave behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from dstc.store.results import save_rows_so_far, write_part
from dstc.worker.attempts import Attempt
from dstc.worker.row import derive_retry_seed, derive_seed
from dstc_engine.request import Translation
from tests.seeded_engine import SeededEngine, structure_of
from tests.unit.dstc.one_actor import Columns, Job, Write

LIMIT = 0.5
ROWS = 24

StartJob = Callable[..., tuple[Job, list[tuple[str, int]]]]


def seed_of(row_id: str) -> int:
    return derive_seed(0, row_id)


def is_flagged(seed: int) -> bool:
    return structure_of(seed) > LIMIT


def without_times(row: dict[str, Any]) -> str:
    """NaN is no equal of itself."""
    return repr({name: value for name, value in row.items() if name != "retries"})


def without_seconds(rows: pa.Table) -> str:
    return repr([{**row, "seconds": 0} for row in rows.to_pylist()])


@pytest.fixture
def start(make_job: Callable[..., Job], write_manifest: Write, good_rows: Columns) -> StartJob:
    """An actor over one shard, and what its engine is asked for."""
    manifest = write_manifest(good_rows(ROWS))

    def begin(kind: Any = SeededEngine, **more: Any) -> tuple[Job, list[tuple[str, int]]]:
        engines: list[SeededEngine] = []

        def make_engine(slots: int) -> SeededEngine:
            engines.append(kind(job.task.settings, slots))
            engines[-1].seen = seen
            return engines[-1]

        seen: list[tuple[str, int]] = []
        fields = {"gate_structure": str(LIMIT)}
        job = make_job(manifest, make_engine=make_engine, set=fields, **more)
        return job, seen

    return begin


@pytest.fixture
def finished(start: StartJob) -> pa.Table:
    """The result rows of a finished shard, flagged ones among them."""
    job, _ = start()
    rows = job.translate()
    write_part(job.run, 0, rows)
    return rows


def files(job: Job) -> dict[str, bytes]:
    output = Path(job.run.uri)
    return {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*.png")}


def test_rows_are_flagged_and_stay_done(finished: pa.Table) -> None:
    rows = finished.to_pylist()
    for row in rows:
        assert (row["status"], row["retries"]) == ("done", 0)
        assert row["flagged"] == ("structure" if is_flagged(row["seed"]) else None)
    assert 5 < sum(row["flagged"] is not None for row in rows) < ROWS - 5


def test_further_images_are_not_judged(start: StartJob) -> None:
    job, _ = start(samples_per_row=3)
    rows = job.translate().to_pylist()
    passing = [row for row in rows if row["flagged"] is None]
    assert any(is_flagged(sample["seed"]) for row in passing for sample in row["samples"])
    assert all(is_flagged(row["seed"]) == (row["flagged"] is not None) for row in rows)


def test_the_better_image_is_kept_beside_the_old_one(start: StartJob, finished: pa.Table) -> None:
    job, seen = start(retry="flagged")
    before = files(job)
    again = job.translate().to_pylist()
    flagged = [row["id"] for row in finished.to_pylist() if row["flagged"]]
    assert sorted(seen) == sorted((i, derive_retry_seed(seed_of(i), 1)) for i in flagged)
    better = set()
    for old, new in zip(finished.to_pylist(), again, strict=True):
        first, second = seed_of(old["id"]), derive_retry_seed(seed_of(old["id"]), 1)
        if old["id"] not in flagged:
            assert without_times(new) == without_times(old) and new["retries"] == 0
        elif structure_of(second) >= structure_of(first):
            assert without_times(new) == without_times(old) and new["retries"] == 1
        else:
            better.add(job.run.retry_name(old["id"], 1))
            assert (new["status"], new["seed"], new["retries"]) == ("done", second, 1)
            assert new["flagged"] == ("structure" if is_flagged(second) else None)
            assert new["losses"][-1]["structure"] == structure_of(second)
            path = Path(job.run.uri) / new["image"]
            assert new["image"] == job.run.retry_name(old["id"], 1)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == new["image_sha256"]
            with Image.open(path) as image:
                assert image.text["retry"] == "1"  # type: ignore[attr-defined]
                assert image.text["seed"] == str(second)  # type: ignore[attr-defined]
    assert 0 < len(better) < len(flagged)
    after = files(job)
    assert {name: after[name] for name in before} == before, "no image is written over"
    assert set(after) - set(before) == better

    write_part(job.run, 0, pa.Table.from_pylist(again, finished.schema))
    seen.clear()
    third = job.translate().to_pylist()
    still = {row["id"] for row in again if row["flagged"]}
    assert sorted(seen) == sorted((i, derive_retry_seed(seed_of(i), 2)) for i in still)
    assert [row["retries"] for row in third] == [
        row["retries"] + (row["id"] in still) for row in again
    ]


@pytest.mark.parametrize("retry", [None, "failed"])
def test_flagged_rows_stay_unless_asked_for(
    start: StartJob, finished: pa.Table, retry: str | None
) -> None:
    job, seen = start(retry=retry)
    assert repr(job.translate().to_pylist()) == repr(finished.to_pylist())
    assert seen == []


def test_failed_rows_are_left_to_retry_failed(start: StartJob, finished: pa.Table) -> None:
    rows = finished.to_pylist()
    flagged = [n for n, row in enumerate(rows) if row["flagged"]]
    rows[flagged[0]] |= {"status": "failed", "reason": "engine_error", "flagged": None}
    job, seen = start(retry="flagged")
    write_part(job.run, 0, pa.Table.from_pylist(rows, finished.schema))
    again = job.translate().to_pylist()
    assert again[flagged[0]]["reason"] == "engine_error"
    assert len(seen) == len(flagged) - 1


def test_a_shard_that_runs_twice_ends_alike(start: StartJob, finished: pa.Table) -> None:
    job, _ = start(retry="flagged")

    def ended() -> tuple[str, dict[str, bytes]]:
        return without_seconds(job.translate()), files(job)

    assert ended() == ended()


def test_what_a_dead_attempt_has_tried_is_not_tried_again(
    start: StartJob, finished: pa.Table
) -> None:
    first, seen = start(retry="flagged")
    whole = first.translate()
    places = [n for n, row in enumerate(finished.to_pylist()) if row["flagged"]][:4]
    # As a process leaves it that died after it had tried four of the rows.
    Attempt(first.run, 0)
    save_rows_so_far(first.run, 0, whole.take(pa.array(places)), places)
    job, seen = start(retry="flagged")
    again = job.translate()
    ids = whole.column("id").to_pylist()
    assert {row_id for row_id, _ in seen}.isdisjoint(ids[place] for place in places)
    assert without_seconds(again) == without_seconds(whole)


def test_what_an_attempt_before_the_part_left_does_not_count(
    start: StartJob, finished: pa.Table
) -> None:
    job, seen = start(retry="flagged")
    Attempt(job.run, 0)
    save_rows_so_far(job.run, 0, finished, list(range(ROWS)))
    again = job.translate().to_pylist()
    flagged = [row["flagged"] is not None for row in finished.to_pylist()]
    assert [row["retries"] for row in again] == [int(was) for was in flagged]


class Sick(SeededEngine):
    """Every row fails in it."""

    def _end(self, request: Any, losses: Any) -> Translation:
        ended = super()._end(request, losses)
        return replace(ended, status="failed", image=None, reason="non_finite", error="NaN")


@pytest.mark.parametrize("deaths", [0, 2])
def test_a_try_that_fails_leaves_its_row_as_it_was(
    start: StartJob, finished: pa.Table, deaths: int
) -> None:
    job, seen = start(Sick, retry="flagged")
    for _ in range(deaths):  # carefully, one row at a time
        Attempt(job.run, 0)
    before = files(job)
    again = job.translate().to_pylist()
    assert [without_times(row) for row in again] == [
        without_times(row) for row in finished.to_pylist()
    ]
    assert [row["retries"] for row in again] == [int(bool(row["flagged"])) for row in again]
    assert files(job) == before and seen


def test_further_images_stay_when_a_row_is_tried_again(start: StartJob) -> None:
    job, _ = start(samples_per_row=3)
    first = job.translate()
    write_part(job.run, 0, first)
    again_job, seen = start(samples_per_row=3, retry="flagged")
    again = again_job.translate().to_pylist()
    rows = first.to_pylist()
    assert len(seen) == sum(row["flagged"] is not None for row in rows), "image 0 alone"
    assert any(new["seed"] != old["seed"] for new, old in zip(again, rows, strict=True))
    assert repr([row["samples"] for row in again]) == repr([row["samples"] for row in rows])


def test_rows_of_a_part_without_the_columns_run_again(start: StartJob, finished: pa.Table) -> None:
    job, seen = start(retry="flagged")
    write_part(job.run, 0, finished.drop_columns(["flagged", "retries"]))
    again = job.translate()
    assert len(seen) == ROWS
    assert again.column("image_sha256") == finished.column("image_sha256")
