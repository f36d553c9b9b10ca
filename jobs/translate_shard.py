"""The actor that translates: one shard in, its result rows out.

    check -> fetch and decode (threads) -> engine (one thread) -> PNG to storage (threads)

Ray calls it with two shards at a time. The pictures of a row are written before the shard's result
rows leave the actor, under names made from the ids, so a shard that is run again writes the same
files again. No fault of a row leaves a call as an exception: it is a result row.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dstc_engine.request import Translation
from jobs import progress
from jobs.attempts import Attempt
from jobs.engine_thread import Engine, EngineThread
from jobs.row import Failed, Rejected, Row, check_row, load_request
from jobs.settings import Settings
from jobs.store import storage
from jobs.store.manifest import pack_rows, unpack_rows
from jobs.store.results import (
    DONE,
    FAILED,
    OUTPUT_SCHEMA,
    REJECTED,
    Outcome,
    read_part,
    result_table,
)
from jobs.store.run_folder import RunFolder

log = logging.getLogger(__name__)

# Storage answers in tens of milliseconds and steps take longer: a few threads keep slots fed.
FETCH_THREADS = 8
WRITE_THREADS = 4

_PHASES = ("fetch", "queue", "translate", "write")
_KNOWN_COLUMNS = ("id", "content", "style", "prompt", "source_prompt", "mask", "seed")


@dataclass(frozen=True)
class ShardTask:
    """What every actor of a run is made with; small, since Ray ships it to each.

    Attributes:
        settings: of the run. run: its folder. run_id, picture_fingerprint: of its job.
        device: "cuda" or "cpu". cpu_threads: of torch in one actor; 0 leaves torch's own choice.
    """

    settings: Settings
    run: RunFolder
    run_id: str
    picture_fingerprint: str
    device: str = "cpu"
    cpu_threads: int = 0


def make_engine_factory(task: ShardTask) -> Callable[[], Engine]:
    """Loads the networks once, and returns what builds an engine around them.

    Raises:
        WeightsError: weights are missing or not those named.
    """
    settings, preset = task.settings, task.settings.resolved_preset
    # Imported here and below: the driver needs this class, and not the seconds torch takes to come.
    if settings.engine == "fake":
        from dstc_engine.fake import FakeEngine

        return lambda: FakeEngine(preset, settings.slots, step_seconds=settings.fake_step_seconds)

    import torch

    from dstc_engine.engine import Engine as GuidedEngine
    from dstc_engine.models import load_models

    models = load_models(preset, device=task.device, precision=settings.precision)

    def make_engine() -> Engine:
        # In the engine's thread: OpenMP keeps this number for each thread.
        if task.device == "cpu" and task.cpu_threads:
            torch.set_num_threads(task.cpu_threads)
        return GuidedEngine(models, preset, settings.slots)

    return make_engine


class TranslateShard:
    """Ray Data calls it with one packed shard (`manifest.SHARD_SCHEMA`) at a time per thread.

    Args:
        task: of the run.
        row_count: a `progress.RowCount` actor, or None.
        make_engine: builds the engine; by default that of `task`.
    """

    def __init__(
        self,
        task: ShardTask,
        row_count: Any = None,
        make_engine: Callable[[], Engine] | None = None,
    ) -> None:
        self._task = task
        self._row_count = row_count
        slots = task.settings.slots
        self._engine = EngineThread(
            make_engine or make_engine_factory(task),
            slots,
            _is_cuda_dead if task.device == "cuda" else lambda: False,
        )
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._writers = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="write")
        # Decoded pictures may be large: only so many rows wait in memory for a slot.
        self._room_ahead = threading.Semaphore(slots + FETCH_THREADS)
        self._one_careful_row = threading.Lock()
        self._orders = itertools.count()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Translates one shard; its result rows in the order of its manifest rows."""
        (record,) = batch.to_pylist()
        rows = unpack_rows(record["rows"])
        shard = _ShardRun(
            number=record["shard"],
            order=next(self._orders),
            folder=record["folder"],
            attempt=Attempt(self._task.run, record["shard"]),
            duplicate_of=dict(record["duplicates"]),
            first_row=record["first_row"],
        )
        occupancy = self._engine.occupancy
        results = self._translate(shard, rows)
        assert results.num_rows == rows.num_rows
        shard.attempt.finish(
            {
                **shard.stats(results),
                "run_id": self._task.run_id,
                "shard": shard.number,
                "slots": self._task.settings.slots,
                "occupancy": round(self._engine.occupancy.since(occupancy), 4),
                "worker": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        return pa.table(
            {"shard": [shard.number], "rows": [pack_rows(results)]}, schema=OUTPUT_SCHEMA
        )

    def close(self) -> None:
        """Ends the threads; only needed where the process lives on."""
        self._engine.close()
        self._fetchers.shutdown()
        self._writers.shutdown()

    def _translate(self, shard: _ShardRun, rows: pa.Table) -> pa.Table:
        kept = self._kept_rows(shard, rows)
        is_kept = [status in (DONE, REJECTED) for status in kept.column("status").to_pylist()]
        todo = [i for i in range(rows.num_rows) if i >= len(is_kept) or not is_kept[i]]
        shard.tell(self._row_count, rows.num_rows - len(todo))
        outcomes = self._outcomes(shard, rows.take(todo) if todo else rows.slice(0, 0), todo)
        new = result_table(rows.take(pa.array(todo, pa.int64())), outcomes)
        place_of = {row: place for place, row in enumerate(todo)}
        order = [kept.num_rows + place_of[i] if i in place_of else i for i in range(rows.num_rows)]
        return pa.concat_tables([kept, new]).take(pa.array(order, pa.int64()))

    def _kept_rows(self, shard: _ShardRun, rows: pa.Table) -> pa.Table:
        """Rows of a part written before: of a shard with failed rows, or cut short by a limit."""
        empty = result_table(rows.slice(0, 0), [])
        try:
            part = read_part(self._task.run, shard.number)
            return part.slice(0, rows.num_rows).cast(empty.schema)
        except (FileNotFoundError, pa.ArrowException, ValueError):
            return empty

    def _outcomes(self, shard: _ShardRun, rows: pa.Table, offsets: Sequence[int]) -> list[Outcome]:
        known = rows.select([name for name in _KNOWN_COLUMNS if name in rows.schema.names])
        values = list(zip(offsets, known.to_pylist(), strict=True))
        if shard.attempt.is_careful:
            return [self._run_carefully(shard, offset, row) for offset, row in values]
        return [
            future.result()
            for future in [self._start_row(shard, offset, row) for offset, row in values]
        ]

    # -- one row ---------------------------------------------------------------------------------

    def _start_row(self, shard: _ShardRun, offset: int, values: dict[str, Any]) -> Future[Outcome]:
        ended: Future[Outcome] = Future()

        def end(outcome: Outcome) -> None:
            shard.tell(self._row_count, 1)
            ended.set_result(outcome)

        def fetch() -> None:
            place = _Place(self._room_ahead)
            clock = _Clock(shard)
            row: Row | None = None
            try:
                row = self._check(shard, offset, values)
                request = load_request(row, shard.folder)
                clock.lap("fetch")

                def on_start() -> None:
                    place.leave()
                    clock.lap("queue")

                translation = self._engine.submit(request, shard.order, on_start=on_start)
            except Exception as error:
                place.leave()
                end(_outcome_of(error, row, values))
                return
            translation.add_done_callback(
                lambda done: self._writers.submit(write, row, done, clock)
            )

        def write(row: Row, done: Future[Translation], clock: _Clock) -> None:
            try:
                clock.lap("translate")
                outcome = self._keep(row, done.result())
                clock.lap("write")
            except Exception as error:
                outcome = _outcome_of(error, row, values)
            end(outcome)

        self._fetchers.submit(fetch)
        return ended

    def _run_carefully(self, shard: _ShardRun, offset: int, values: dict[str, Any]) -> Outcome:
        """One row with nothing beside it, named before each stage that could end the process."""
        row: Row | None = None
        clock = _Clock(shard)
        with self._one_careful_row:
            try:
                row = self._check(shard, offset, values)
                row_id = row.id
                if shard.attempt.is_blamed(row_id):
                    raise Failed("worker_died", "the process died each time it ran this row alone")
                shard.attempt.start_alone(row_id)
                request = load_request(row, shard.folder)
                # While other rows leave the slots, a death would be theirs.
                shard.attempt.end_alone()
                clock.lap("fetch")
                translation = self._engine.submit(
                    request,
                    shard.order,
                    alone=True,
                    on_start=lambda: shard.attempt.start_alone(row_id),
                ).result()
                clock.lap("translate")
                outcome = self._keep(row, translation)
                shard.attempt.end_alone()
                clock.lap("write")
            except Exception as error:
                outcome = _outcome_of(error, row, values)
        shard.tell(self._row_count, 1)
        return outcome

    def _check(self, shard: _ShardRun, offset: int, values: dict[str, Any]) -> Row:
        number = shard.first_row + offset
        seed = self._task.settings.seed
        return check_row(values, number, seed, shard.duplicate_of.get(number))

    def _keep(self, row: Row, translation: Translation) -> Outcome:
        """Writes the picture, and says how the row ended."""
        from dstc_engine import image

        run = self._task.run
        name = sha256 = None
        if translation.picture is not None:
            texts = {
                "id": row.id,
                "seed": str(row.seed),
                "preset": self._task.settings.resolved_preset.name,
                "fingerprint": self._task.picture_fingerprint,
            }
            data = image.encode_png(translation.picture, texts)
            name, sha256 = run.image_name(row.id), hashlib.sha256(data).hexdigest()
            try:
                storage.write_bytes(run.image(row.id), data)
            except Exception as error:
                raise Failed("write_error", f"{name}: {_told(error)}") from error
        return Outcome(
            status=DONE if translation.status == DONE else FAILED,
            reason=translation.reason,
            error=translation.error,
            image=name,
            image_sha256=sha256,
            seed=row.seed,
            steps=translation.steps,
            restarts=translation.restarts,
            seconds=translation.seconds,
            losses=translation.losses,
        )


@dataclass(eq=False)
class _ShardRun:
    """One call: what the shard brings, and what is measured on the way."""

    number: int
    order: int
    folder: str
    attempt: Attempt
    duplicate_of: dict[int, int]
    first_row: int
    started: float = field(default_factory=time.time)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ended: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spend(self, phase: str, seconds: float) -> None:
        with self.lock:
            self.seconds[phase] += seconds

    def tell(self, row_count: Any, rows: int) -> None:
        with self.lock:
            self.ended += rows
            progress.tell(row_count, self.number, self.ended)

    def stats(self, results: pa.Table) -> dict[str, Any]:
        statuses = results.column("status").to_pylist()
        now = time.time()
        return {
            "rows": results.num_rows,
            "status": dict(Counter(statuses)),
            "reasons": dict(Counter(filter(None, results.column("reason").to_pylist()))),
            "started": round(self.started, 3),
            "ended": round(now, 3),
            "seconds": {
                "shard": round(now - self.started, 3),
                **{phase: round(self.seconds[phase], 3) for phase in _PHASES},
            },
        }


class _Place:
    """A place among the rows that wait in memory; left once, however often it is asked."""

    def __init__(self, places: threading.Semaphore) -> None:
        self._places: threading.Semaphore | None = places
        places.acquire()

    def leave(self) -> None:
        if self._places is not None:
            self._places.release()
            self._places = None


class _Clock:
    """Books the time since the last lap to a phase of the shard."""

    def __init__(self, shard: _ShardRun) -> None:
        self._shard = shard
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self._shard.spend(phase, now - self._last)
        self._last = now


def _outcome_of(error: Exception, row: Row | None, values: dict[str, Any]) -> Outcome:
    seed = row.seed if row is not None else values.get("seed")
    if isinstance(error, Rejected):
        return Outcome(REJECTED, error.reason, str(error), seed=seed)
    if isinstance(error, Failed):
        return Outcome(FAILED, error.reason, str(error), seed=seed)
    # A mistake of ours; the shard's other rows are not to suffer for it.
    log.error("row %r", values.get("id"), exc_info=error)
    return Outcome(FAILED, "internal_error", _told(error), seed=seed)


def _told(error: Exception) -> str:
    return storage.redact(f"{type(error).__name__}: {error}")


def _is_cuda_dead() -> bool:
    """Whether the GPU refuses even the smallest work, as it does after an illegal access."""
    import torch

    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).cpu()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False
