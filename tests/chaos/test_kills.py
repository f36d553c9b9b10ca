"""Processes that end at the worst moment: actors, whole nodes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from dstc.errors import JobError
from dstc.translate import OK, SOME_FAILED, run
from dstc.verify import verify
from tests.chaos.runs import (
    ROWS,
    Columns,
    assert_whole,
    parts,
    pixels,
    settings_of,
    wait_for,
    write_rows,
)
from tests.faulty_engines import BAD_ROW, ROOM, marks
from tests.outcomes import outcome
from tests.ray_session import RAY_WARNINGS, result_rows, workers

pytestmark = RAY_WARNINGS


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, good_rows: Columns) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), good_rows(ROWS))


@pytest.fixture
def ids(good_rows: Columns) -> list[str]:
    return good_rows(ROWS)["id"]


@pytest.fixture(scope="module")
def calm(manifest: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    output = tmp_path_factory.mktemp("calm") / "run"
    assert run(settings_of(manifest, output, fake_step_seconds=0.0)) == OK
    return output


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_actor_costs_nothing(
    kind: signal.Signals, calm: Path, manifest: Path, tmp_path: Path, ids: list[str]
) -> None:
    torn = tmp_path / "torn"
    killed: list[str] = []

    def kill_twice() -> None:
        for _ in range(2):
            wait_for(lambda: parts(torn) and workers(torn) - set(killed))
            worker = min(workers(torn) - set(killed))
            os.kill(int(worker.rpartition(":")[2]), kind)
            killed.append(worker)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    assert run(settings_of(manifest, torn, fake_step_seconds=0.1)) == OK
    killer.join()
    assert len(set(killed)) == 2, "both actors had finished shards when they were killed"
    assert_whole(torn, ids)
    assert outcome(torn)[1] == outcome(calm)[1]


@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_costs_no_sample(
    manifest: Path, tmp_path: Path, ids: list[str], calm: Path
) -> None:
    torn, whole = tmp_path / "torn", tmp_path / "whole"

    def kill() -> None:
        wait_for(lambda: len(parts(torn)) >= 2 and workers(torn))
        os.kill(int(min(workers(torn)).rpartition(":")[2]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    settings = settings_of(manifest, torn, samples_per_row=3, fake_step_seconds=0.03)
    assert run(settings) == OK
    killer.join()
    assert run(settings_of(manifest, whole, samples_per_row=3, fake_step_seconds=0.0)) == OK
    assert_whole(torn, ids)
    assert {row["id"]: row["image_sha256"] for row in result_rows(torn)} == {
        row["id"]: row["image_sha256"] for row in result_rows(calm)
    }
    ours, theirs = (
        [[(s["seed"], s["image_sha256"]) for s in row["samples"]] for row in result_rows(output)]
        for output in (torn, whole)
    )
    assert ours == theirs and all(len(samples) == 2 for samples in ours)


@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_costs_no_image_in_a_container(
    manifest: Path, tmp_path: Path, ids: list[str], calm: Path
) -> None:
    torn = tmp_path / "torn"

    def kill() -> None:
        wait_for(lambda: len(parts(torn)) >= 2 and workers(torn))
        os.kill(int(min(workers(torn)).rpartition(":")[2]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert run(settings_of(manifest, torn, store="webdataset", fake_step_seconds=0.05)) == OK
    killer.join()
    assert_whole(torn, ids)
    assert {row["id"]: row["image_sha256"] for row in result_rows(torn)} == {
        row["id"]: row["image_sha256"] for row in result_rows(calm)
    }
    assert verify(str(torn)).is_whole, "each image has its sum, and no container is left over"
    assert len(list((torn / "images").glob("*.tar"))) == len(parts(torn))


def test_an_actor_that_dies_while_it_loads_is_replaced(
    calm: Path, manifest: Path, tmp_path: Path, ids: list[str]
) -> None:
    output = tmp_path / "run"
    settings = settings_of(manifest, output, engine="tests.faulty_engines:DIES_WHILE_LOADING")
    assert run(settings) == OK
    assert len(list(marks(output).glob("loading-*"))) >= 3
    assert_whole(output, ids)
    assert pixels(output) == pixels(calm)


@pytest.mark.usefixtures("ray_session")
def test_actors_that_never_load_end_the_job_and_not_its_driver(
    manifest: Path, tmp_path: Path, ids: list[str]
) -> None:
    output = tmp_path / "run"
    settings = settings_of(manifest, output, engine="tests.faulty_engines:NEVER_LOADS", actors=1)
    with pytest.raises(JobError, match="5 processes in a row ended while they loaded"):
        run(settings)
    assert not parts(output)


def test_a_dead_device_costs_its_process_and_no_row(
    calm: Path, manifest: Path, tmp_path: Path, ids: list[str]
) -> None:
    output = tmp_path / "run"
    assert run(settings_of(manifest, output, engine="tests.faulty_engines:DEAD_DEVICE")) == OK
    assert len(list(marks(output).glob("dead-*"))) >= 2, "the row ran again, in a new process"
    assert len({mark.name.split("-")[1] for mark in marks(output).glob("dead-*")}) >= 2
    assert_whole(output, ids)
    assert pixels(output) == pixels(calm)


def test_out_of_memory_halves_the_slots_and_goes_on(
    calm: Path, manifest: Path, tmp_path: Path, ids: list[str]
) -> None:
    output = tmp_path / "run"
    settings = settings_of(manifest, output, engine="tests.faulty_engines:SMALL_MEMORY", slots=5)
    assert run(settings) == OK
    assert_whole(output, ids)
    assert {row["slots"] for row in result_rows(output)} == {ROOM}, "told, since it may matter"
    assert {row["slots"] for row in result_rows(calm)} == {3}
    assert pixels(output) == pixels(calm)


def test_a_row_that_kills_every_process_fails_and_all_others_are_done(
    calm: Path, manifest: Path, tmp_path: Path, ids: list[str]
) -> None:
    output = tmp_path / "run"
    settings = settings_of(manifest, output, engine="tests.faulty_engines:DEADLY")
    assert run(settings) == SOME_FAILED
    rows = {row["id"]: row for row in result_rows(output)}
    assert list(rows) == ids
    poisoned = rows.pop(BAD_ROW)
    assert (poisoned["status"], poisoned["reason"]) == ("failed", "worker_died")
    assert {row["status"] for row in rows.values()} == {"done"}
    expected = pixels(calm)
    del expected[BAD_ROW]
    assert pixels(output) == expected
    # Twice together with others, twice alone.
    assert len(list(marks(output).glob("died-*"))) == 4
