"""Every row has an end: whatever an engine, a decoder or an observer does, no row is waited for."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import dstc_engine.encoding
from dstc.errors import JobError, OutputError
from dstc.store import storage
from dstc.store.results import write_part
from dstc.worker import watchdog
from dstc.worker.attempts import Attempt
from dstc.worker.engine_thread import EngineThread
from dstc.worker.prometheus import ActorMetrics
from dstc.worker.row_count import blaming
from dstc_engine.decoding import read
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import StepLosses, Translation, TranslationRequest
from tests.hostile.case import Case
from tests.unit.dstc.one_actor import Job

KIND = "Every row has an end"
ROWS, BAD = 5, "row/002"
DEADLINE_S = 1.0

CASES = [
    Case(KIND, name, what, outcome)
    for name, what, outcome in [
        ("engine_exits", "A step raises SystemExit", "failed: engine_error"),
        ("engine_interrupts", "A step raises KeyboardInterrupt", "failed: engine_error"),
        ("engine_base", "A step raises a BaseException of its own", "failed: engine_error"),
        ("engine_wordless", "A step raises an error without a text", "failed: engine_error"),
        ("engine_none", "A step returns None", "failed: engine_error"),
        ("engine_words", "A step returns texts in place of translations", "failed: engine_error"),
        ("engine_renames", "A translation comes under another id", "failed: engine_error"),
        ("engine_strays", "A translation comes that nobody waits for", "done"),
        ("engine_repeats", "A translation comes twice", "done"),
        ("engine_blind", "A translation is done without an image", "failed: internal_error"),
        ("engine_unstorable", "A translation has losses that are none", "failed: internal_error"),
        ("engine_endless", "A row takes steps without end", "failed: timed_out"),
        ("decoder_exits", "A decoder raises SystemExit", "failed: internal_error"),
        ("decoder_interrupts", "A decoder raises KeyboardInterrupt", "failed: internal_error"),
        ("decoder_base", "A decoder raises a BaseException of its own", "failed: internal_error"),
        ("decoder_wordless", "A decoder raises an error without a text", "failed: internal_error"),
        ("decoder_hangs", "A decoder does not return", "failed: timed_out"),
        ("writer_exits", "An encoder raises SystemExit", "failed: internal_error"),
        ("observer_raises", "Every observer of the engine raises", "done"),
    ]
]
DEADLY_CASES = [
    Case(KIND, name, what, outcome)
    for name, what, outcome in [
        ("step_hangs", "A step does not return", "failed: timed_out"),
        ("add_hangs", "The engine does not take a row", "failed: timed_out"),
        ("lock_held", "A decoder holds the interpreter's lock", "failed: worker_died"),
        (
            "device_unasked",
            "The engine cannot say whether its device is dead",
            "failed: worker_died",
        ),
    ]
]


class Base(BaseException):
    pass


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


RAISED = {
    "exits": SystemExit(3),
    "interrupts": KeyboardInterrupt(),
    "base": Base("mine"),
    "wordless": Wordless(),
}


class Hostile(FakeEngine):
    """Does as its case says while the bad row is in a slot."""

    def __init__(self, slots: int, case: str) -> None:
        super().__init__(TINY64, slots)
        self.what = case.partition("_")[2] if case.startswith("engine_") else case

    @property
    def has_bad_row(self) -> bool:
        return any(request.id == BAD for request, _ in self._running)

    def add(self, request: TranslationRequest) -> None:
        super().add(request)
        if self.what == "add_hangs" and request.id == BAD:
            threading.Event().wait()

    def is_device_dead(self) -> bool:
        if self.what == "device_unasked":
            raise SystemExit("who asks?")
        return False

    def step(self) -> Any:
        ended = super().step()
        if self.what == "endless":
            time.sleep(0.01)
            for request, losses in self._running:
                if request.id == BAD:
                    del losses[2:]
        is_bad = self.has_bad_row or any(t.id == BAD for t in ended)
        if not is_bad:
            return ended
        if self.what in RAISED:
            raise RAISED[self.what]
        match self.what:
            case "none":
                return None
            case "words":
                return ["translation"]
            case "renames":
                return [_renamed(t) if t.id == BAD else t for t in ended]
            case "strays":
                return [*ended, *(_renamed(t) for t in ended)]
            case "blind":
                return [replace(t, image=None) if t.id == BAD else t for t in ended]
            case "unstorable":
                odd: Any = {"structure": "low"}
                losses = [StepLosses(0, "sample", odd)]
                return [replace(t, losses=losses) if t.id == BAD else t for t in ended]
            case "repeats":
                return [*ended, *ended]
            case "step_hangs":
                threading.Event().wait()
            case "device_unasked":
                raise RuntimeError("a device is dead")
        return ended


def _renamed(translation: Translation) -> Translation:
    return Translation("row/nobody", 0, "done", translation.image)


def _in_decoder(case: str) -> Callable[..., Any]:
    decode, what = read.read_image, case.partition("_")[2]

    def hostile(data: bytes, shown: str) -> Any:
        if "p2.png" in shown:
            if what == "hangs":
                threading.Event().wait()
            if what == "held":
                re.fullmatch(r"(a+)+b", "a" * 60)
            raise RAISED[what]
        return decode(data, shown)

    return hostile


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(
    tmp_path: Path, write_manifest: Callable[..., Path], good_rows: Callable[[int], Any]
) -> Iterator[MakeJob]:
    jobs: list[Job] = []

    def make(case: str, rows: int = ROWS, shard: int = 100) -> Job:
        manifest = write_manifest(good_rows(rows))
        output = tmp_path / "run"

        def make_engine(slots: int) -> Hostile:
            return Hostile(slots, case)

        jobs.append(Job(manifest, output, shard, make_engine, row_deadline=DEADLINE_S))
        return jobs[-1]

    yield make
    for job in jobs:
        job.actor.close()


def ended(job: Job) -> dict[str, str]:
    return {
        row["id"]: ": ".join(filter(None, (row["status"], row["reason"])))
        for row in job.translate().to_pylist()
    }


def expected(case: Case) -> dict[str, str]:
    return {f"row/{n:03d}": "done" for n in range(ROWS)} | {BAD: case.outcome}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_row_ends_by_itself(
    case: Case, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.name.startswith("decoder_"):
        monkeypatch.setattr(read, "read_image", _in_decoder(case.name))
    if case.name == "writer_exits":
        encode = dstc_engine.encoding.encode_image

        def encode_or_exit(image: Any, form: Any, quality: Any, texts: dict[str, str]) -> bytes:
            if texts["id"] == BAD:
                raise SystemExit
            return encode(image, form, quality, texts)

        monkeypatch.setattr(dstc_engine.encoding, "encode_image", encode_or_exit)
    if case.name == "observer_raises":

        def refuse(*arguments: object) -> None:
            raise Base("no metrics today")

        for name in ("step", "engine_rebuilt", "row_ended"):
            monkeypatch.setattr(ActorMetrics, name, refuse)
    start = time.monotonic()
    assert ended(make_job(case.name)) == expected(case)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("what", ["exits", "interrupts", "base", "hangs"])
def test_a_decoder_ends_its_row_where_rows_run_alone(
    what: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "read_image", _in_decoder(f"decoder_{what}"))
    job = make_job("calm")
    for _ in range(2):
        Attempt(job.run, 0)
    reason = "timed_out" if what == "hangs" else "internal_error"
    assert ended(job)[BAD] == f"failed: {reason}"
    assert job.stats()["attempt"] == 3


def test_more_hanging_fetches_than_threads_do_not_stop_the_others(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "read_image", _in_decoder("decoder_hangs"))
    job = make_job("calm", rows=72)  # every sixth hangs: 12 of them, and there are 8 threads
    counts = list(ended(job).values())
    assert (counts.count("done"), counts.count("failed: timed_out")) == (60, 12)


def test_waiting_in_line_is_not_counted(make_job: MakeJob) -> None:
    job = make_job("calm", rows=30)
    engine = job.actor._engine
    engine._make_engine = lambda slots: FakeEngine(TINY64, slots, step_seconds=0.1)
    start = time.monotonic()
    assert set(ended(job).values()) == {"done"}
    assert time.monotonic() - start > 3 * DEADLINE_S, "most rows waited for longer than that"


# -- the engine's thread by itself -----------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[EngineThread]:
    thread = EngineThread(lambda slots: FakeEngine(TINY64, slots), 3)
    yield thread
    thread.close()


@pytest.mark.parametrize("error", [RuntimeError("no"), OutputError("full"), SystemExit(1)])
def test_an_on_start_that_raises_ends_its_own_row_alone(
    engine: EngineThread, error: BaseException, images: Path
) -> None:
    def request(name: str) -> TranslationRequest:
        content = dstc_engine.image.decode((images / "p0.png").read_bytes(), name)
        return TranslationRequest(id=name, content=content, seed=1, prompt="x")

    def refuse() -> None:
        raise error

    bad = engine.submit(request("bad"), 0, on_start=refuse)
    good = [engine.submit(request(f"r{n}"), 0) for n in range(4)]
    with pytest.raises(type(error)):
        bad.result(10)
    assert [future.result(10).status for future in good] == ["done"] * 4
    assert engine.output.rows == 5


def test_a_dead_engine_thread_ends_the_process_and_everybody_is_told(
    monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)

    class Broken(EngineThread):
        def _finish(self, *arguments: Any) -> None:
            raise Base("a mistake of ours")

    engine = Broken(lambda slots: FakeEngine(TINY64, slots), 3)
    content = dstc_engine.image.decode((images / "p0.png").read_bytes(), "p0")
    futures = [
        engine.submit(TranslationRequest(id=str(n), content=content, seed=1, prompt="x"), 0)
        for n in range(7)
    ]
    for future in futures:
        with pytest.raises(RuntimeError, match="closed"):
            future.result(10)
    assert codes == [1]
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(TranslationRequest(id="late", content=content, seed=1, prompt="x"), 0)


def test_an_engine_that_exits_while_it_is_made_ends_the_job_with_a_word() -> None:
    with pytest.raises(JobError, match="SystemExit"), blaming(None):
        raise SystemExit("no license")


# -- where only a fresh process helps --------------------------------------------------------------


def _enter_together(engine: Any) -> None:
    """Rows enter when all are there: else the bad one may meet none, as fetches take turns."""
    next_tickets = engine._next_tickets

    def wait_for_all() -> Any:
        if len(engine._waiting) < ROWS:
            engine._changed.wait(0.01)
            return []
        engine._next_tickets = next_tickets
        return next_tickets()

    engine._next_tickets = wait_for_all


def _translate(make_job: MakeJob, case: str, is_first: bool) -> None:
    watchdog._LEAST_STANDSTILL_S = 2.0
    if case == "lock_held":
        read.read_image = _in_decoder("lock_held")
    job = make_job(case)
    if case.endswith("_hangs") and is_first:
        _enter_together(job.actor._engine)
    write_part(job.run, 0, job.translate())
    os._exit(0)  # without the exit handlers that this copy shares with its parent


def processes_until_done(make_job: MakeJob, case: str, output: Path) -> list[int | None]:
    """Exit codes of processes that Ray would start one after the other."""
    context = multiprocessing.get_context("fork")
    codes = []
    while not list((output / "results").glob("part-*.parquet")):
        process = context.Process(target=_translate, args=(make_job, case, not codes))
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"it neither ends nor is done, after {codes}")
        codes.append(process.exitcode)
        assert len(codes) < 10, f"the shard never ends: {codes}"
    return codes


@pytest.mark.parametrize("case", DEADLY_CASES, ids=lambda case: case.name)
def test_a_row_ends_in_another_process(case: Case, make_job: MakeJob, tmp_path: Path) -> None:
    codes = processes_until_done(make_job, case.name, tmp_path / "run")
    # One that hangs is noted by its process; where that cannot be, two deaths alone are needed.
    assert codes == [1] * (4 if case.outcome.endswith("died") else 2) + [0]
    rows = pq.read_table(tmp_path / "run" / "results" / "part-00000.parquet").to_pylist()
    found = {row["id"]: ": ".join(filter(None, (row["status"], row["reason"]))) for row in rows}
    assert found == expected(case)


# -- rows alone ------------------------------------------------------------------------------------


def test_an_output_fault_while_a_row_runs_alone_ends_the_job(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("calm")
    for _ in range(2):
        Attempt(job.run, 0)
    write, notes = storage.write_bytes, iter(range(100))

    def full(uri: str, data: bytes, *patience: Any) -> None:
        if uri.endswith(".json") and next(notes) > 3:
            raise OSError(28, "No space left on device")
        write(uri, data, *patience)

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        job.translate()


def test_nothing_is_in_the_process_while_a_row_runs_alone(make_job: MakeJob) -> None:
    job = make_job("calm", rows=24, shard=12)
    for _ in range(2):
        Attempt(job.run, 0)
    fetching: set[str] = set()
    seen: list[set[str]] = []
    requests = job.actor._requests

    def noting(row: Any, *arguments: Any) -> Any:
        fetching.add(row.id)
        time.sleep(0.01)
        found = requests(row, *arguments)
        seen.append(set(fetching))
        fetching.discard(row.id)
        return found

    class Noting(FakeEngine):
        def step(self) -> list[Translation]:
            seen.append({request.id for request, _ in self._running} | fetching)
            return super().step()

    job.actor._requests = noting  # type: ignore[method-assign]
    job.actor._engine._make_engine = lambda slots: Noting(TINY64, slots, step_seconds=0.01)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(job.translate, (1, 0)))
    assert all(table.column("status").to_pylist() == ["done"] * 12 for table in results)
    alone = {f"row/{n:03d}" for n in range(12)}
    assert any(ids & alone for ids in seen) and any(len(ids - alone) > 1 for ids in seen)
    assert all(len(ids) == 1 for ids in seen if ids & alone)
