"""The actor that translates: one shard in, its result rows out.

    check -> fetch and decode (threads) -> engine (one thread) -> PNG to storage (threads)

Ray calls it with two shards at a time. Where rows have several samples, each is a request of its
own to the engine, and the row ends when all of them have. The images of a row are written before
the shard's result rows leave the actor, under names made from the ids, so a shard that is run again
writes the same files again. A flagged row that is tried with another seed writes its image beside
the old one, and only if it is better. No fault of a row leaves a call as an exception: it is a
result row. Every half minute the rows that have ended are kept aside, so that a process which dies
without a word, as on a spot node, costs little more than the rows in its slots.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pyarrow as pa

from dstc.engines.registry import find_engine
from dstc.engines.spec import Engine
from dstc.errors import OutputError
from dstc.log_lines import show_logs
from dstc.store import retries, storage
from dstc.store.packed_rows import pack_rows, unpack_rows
from dstc.store.results import (
    DONE,
    Outcome,
    Sample,
    result_table,
)
from dstc.text import describe
from dstc.worker import gates
from dstc.worker.attempts import Attempt
from dstc.worker.earlier_rows import find_earlier_rows
from dstc.worker.engine_thread import EngineThread, Occupancy
from dstc.worker.image_cache import ImageCache
from dstc.worker.image_writer import ImageWriter
from dstc.worker.named_rows import naming_rows
from dstc.worker.prometheus import ActorMetrics
from dstc.worker.row import (
    Failed,
    Row,
    check_row,
    derive_retry_seed,
    derive_sample_seed,
    load_request,
)
from dstc.worker.row_count import BEAT_EVERY_S, Work, blaming, tell
from dstc.worker.row_outcome import failed_sample, outcome_of, settled
from dstc.worker.shard_run import Clock, ShardRun
from dstc.worker.shard_task import ShardTask
from dstc.worker.write_results import OUTPUT_SCHEMA
from dstc_engine.request import Translation, TranslationRequest

log = logging.getLogger(__name__)

# Storage answers in tens of milliseconds and steps take longer: a few threads keep slots fed.
FETCH_THREADS = 8
WRITE_THREADS = 4
# Decoded images that rows share, by column: contents, each asked for a few times at most, may not
# push out styles, which all rows ask for. A photograph of 12 megapixels takes 36 MB.
CACHED_BYTES = {"content": 128 << 20, "style": 256 << 20, "mask": 64 << 20}

_OF_IMAGES = tuple(field.name for field in fields(Sample) if field.name != "sample")
_KNOWN_COLUMNS = ("id", "content", "style", "prompt", "source_prompt", "mask", "seed")


class TranslateShard:
    """Translates shards: Ray Data calls it with one packed `read_shards.SHARD_SCHEMA` per thread.

    Args:
        task: of the run.
        row_count: a `RowCount` actor, or None.
        make_engine: builds the engine; by default that of `task`.
    """

    def __init__(
        self,
        task: ShardTask,
        row_count: Any = None,
        make_engine: Callable[[int], Engine] | None = None,
    ) -> None:
        show_logs()
        self._task = task
        self._row_count = row_count
        tell(row_count, "start")
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        # Containers give a fresh process the host and number of a dead one.
        self._process = f"{self._worker}:{uuid.uuid4().hex[:8]}"
        self._limits = gates.limits_of(task.settings.resolved_preset)
        preset = task.settings.resolved_preset.name
        self._image_writer = ImageWriter(task.run, preset, task.image_fingerprint)
        slots = task.settings.slots
        self._metrics = ActorMetrics(task.run_id)
        retries.watch(self._metrics)
        if make_engine is None:
            with blaming(row_count):
                make_engine = find_engine(task.settings.engine).make(task)
        self._engine = EngineThread(
            make_engine,
            slots,
            on_step=self._metrics.step,
            on_rebuild=self._metrics.engine_rebuilt,
        )
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._writers = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="write")
        self._images = {name: ImageCache(limit) for name, limit in CACHED_BYTES.items()}
        # Decoded images may be large: only so many rows wait in memory for a slot.
        self._room_ahead = threading.Semaphore(slots + FETCH_THREADS)
        self._one_careful_row = threading.Lock()
        self._counting = threading.Lock()
        self._rows_translated = 0
        self._orders = itertools.count()
        self._at_work: list[ShardRun] = []
        self._closed = threading.Event()
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Translates one shard; its result rows in the order of its manifest rows.

        Raises:
            OutputError: results cannot be written any more.
        """
        with blaming(self._row_count):
            return self._run_shard(batch)

    def _run_shard(self, batch: pa.Table) -> pa.Table:
        (record,) = batch.to_pylist()
        rows = unpack_rows(record["rows"])
        shard = ShardRun(
            number=record["shard"],
            order=next(self._orders),
            folder=record["folder"],
            attempt=Attempt(self._task.run, record["shard"]),
            duplicate_of=dict(record["duplicates"]),
            first_row=record["first_row"],
            metrics=self._metrics,
        )
        occupancy = self._engine.occupancy
        self._at_work.append(shard)
        try:
            with naming_rows(shard.first_row, rows.num_rows, shard.number):
                results = self._translate(shard, rows)
        finally:
            self._at_work.remove(shard)
        assert results.num_rows == rows.num_rows
        shard.attempt.finish(
            {
                **shard.stats(results),
                "run_id": self._task.run_id,
                "shard": shard.number,
                "slots": self._engine.slots,
                "occupancy": round(self._engine.occupancy.since(occupancy), 4),
                "worker": self._worker,
            }
        )
        self._metrics.shard_ended()
        return pa.table(
            {
                "shard": [shard.number],
                "rows": [pack_rows(results)],
                "has_rows_so_far": [shard.stop_saving()],
            },
            schema=OUTPUT_SCHEMA,
        )

    def close(self) -> None:
        """Ends the threads; only needed where the process lives on."""
        self._closed.set()
        self._engine.close()
        self._fetchers.shutdown()
        self._writers.shutdown()

    def _pulse(self) -> None:
        """Says that this actor is there, and keeps what would be lost with it."""
        before = Occupancy()
        while True:
            now = self._engine.occupancy
            busy, slots = now.busy - before.busy, now.slots - before.slots
            tell(self._row_count, "beat", self._process, busy, slots, self._work())
            before = now
            for shard in list(self._at_work):
                try:
                    shard.save(self._task.run)
                except OSError as error:  # a comfort, no duty: the rows are still in memory
                    log.warning("shard %d: rows so far not kept: %s", shard.number, describe(error))
            if self._closed.wait(BEAT_EVERY_S):
                return

    def _translate(self, shard: ShardRun, rows: pa.Table) -> pa.Table:
        run, retry = self._task.run, self._task.settings.retry
        before = find_earlier_rows(run, shard.number, rows, shard.attempt.is_rerun, retry)
        kept, places = before.kept, before.places
        if shard.attempt.is_rerun:
            shard.attempt.keep(len(places))
        is_kept = set(places)
        todo = [offset for offset in range(rows.num_rows) if offset not in is_kept]
        shard.start(rows, before)
        tell(self._row_count, "tell", shard.number, shard.count(len(places)))
        outcomes = self._outcomes(shard, rows.take(pa.array(todo, pa.int64())), todo)
        new = result_table(rows.take(pa.array(todo, pa.int64())), outcomes)
        row_at = {offset: row for row, offset in enumerate([*places, *todo])}
        order = pa.array([row_at[offset] for offset in range(rows.num_rows)], pa.int64())
        return pa.concat_tables([kept, new]).take(order)

    def _outcomes(self, shard: ShardRun, rows: pa.Table, offsets: Sequence[int]) -> list[Outcome]:
        known = rows.select([name for name in _KNOWN_COLUMNS if name in rows.schema.names])
        values = list(zip(offsets, known.to_pylist(), strict=True))
        if shard.attempt.is_careful:
            return [self._run_carefully(shard, offset, row) for offset, row in values]
        return [
            future.result()
            for future in [self._start_row(shard, offset, row) for offset, row in values]
        ]

    # -- one row ---------------------------------------------------------------------------------

    def _start_row(self, shard: ShardRun, offset: int, values: dict[str, Any]) -> Future[Outcome]:
        ended: Future[Outcome] = Future()
        before = shard.flagged.get(offset)

        def end(outcome: Outcome, was_translated: bool) -> None:
            outcome = settled(outcome, before)
            self._end_row(shard, offset, outcome, was_translated)
            ended.set_result(outcome)

        def fetch() -> None:
            place = _Place(self._room_ahead)
            clock = Clock(shard)
            row: Row | None = None
            try:
                row = self._check(shard, offset, values)
                requests = self._requests(row, shard, before)
                clock.lap("fetch")
                waiting = set(range(len(requests)))

                def on_start(sample: int) -> None:
                    if len(waiting) == len(requests):
                        clock.lap("queue")
                    waiting.discard(sample)
                    if not waiting:
                        place.leave()

                translations = [
                    self._engine.submit(
                        request,
                        shard.order,
                        on_start=partial(on_start, sample),
                        rows=1 / len(requests),
                    )
                    for sample, request in enumerate(requests)
                ]
            except Exception as error:
                place.leave()
                end(outcome_of(error, row, values), was_translated=False)
                return
            _when_all(translations, lambda: self._writers.submit(write, row, translations, clock))

        def write(row: Row, done: Sequence[Future[Translation]], clock: Clock) -> None:
            try:
                clock.lap("translate")
                outcome = self._keep(row, [translation.result() for translation in done], before)
                clock.lap("write")
            except OutputError as error:
                ended.set_exception(error)  # no fault of the row: the job ends
                return
            except Exception as error:
                outcome = outcome_of(error, row, values)
            end(outcome, was_translated=True)

        self._fetchers.submit(fetch)
        return ended

    def _run_carefully(self, shard: ShardRun, offset: int, values: dict[str, Any]) -> Outcome:
        """One row with nothing beside it, named before each stage that could end the process."""
        row: Row | None = None
        before = shard.flagged.get(offset)
        clock = Clock(shard)
        translations: list[Future[Translation]] = []
        with self._one_careful_row:
            try:
                row = self._check(shard, offset, values)
                row_id = row.id
                if shard.attempt.is_blamed(row_id):
                    raise Failed("worker_died", "the process died each time it ran this row alone")
                shard.attempt.start_alone(row_id)
                requests = self._requests(row, shard, before)
                # While other rows leave the slots, a death would be theirs.
                shard.attempt.end_alone()
                clock.lap("fetch")
                # All at once, so that no other row comes between the samples of this one.
                translations = [
                    self._engine.submit(
                        request,
                        shard.order,
                        alone=True,
                        on_start=lambda: shard.attempt.start_alone(row_id),
                        rows=1 / len(requests),
                    )
                    for request in requests
                ]
                outcomes = [translation.result() for translation in translations]
                clock.lap("translate")
                outcome = self._keep(row, outcomes, before)
                shard.attempt.end_alone()
                clock.lap("write")
            except OutputError:
                raise
            except Exception as error:
                outcome = outcome_of(error, row, values)
        outcome = settled(outcome, before)
        self._end_row(shard, offset, outcome, was_translated=bool(translations))
        return outcome

    def _end_row(
        self, shard: ShardRun, offset: int, outcome: Outcome, was_translated: bool
    ) -> None:
        shard.end_row(offset, outcome)
        with self._counting:
            self._rows_translated += was_translated
            rows = shard.count(1)
            tell(self._row_count, "tell", shard.number, rows, self._process, self._work())

    def _work(self) -> Work:
        ended, output = self._rows_translated, self._engine.output
        return Work(
            rows=ended,
            underway=max(0.0, output.rows - ended),
            done=output.rows - output.first,
            seconds=output.seconds,
        )

    def _check(self, shard: ShardRun, offset: int, values: dict[str, Any]) -> Row:
        number = shard.first_row + offset
        seed = self._task.settings.seed
        return check_row(values, number, seed, shard.duplicate_of.get(number))

    def _requests(
        self, row: Row, shard: ShardRun, before: Outcome | None
    ) -> list[TranslationRequest]:
        """A request for each sample of a row; they share its images.

        Where a flagged row is tried again, one alone: its further images stay.
        """
        request = load_request(row, shard.folder, _fetch, self._images)
        if before is not None:
            return [replace(request, seed=derive_retry_seed(row.seed, before.retries + 1))]
        others = range(1, self._task.settings.samples_per_row)
        return [
            request,
            *(replace(request, seed=derive_sample_seed(row.seed, sample)) for sample in others),
        ]

    def _keep(
        self, row: Row, translations: Sequence[Translation], before: Outcome | None
    ) -> Outcome:
        """Writes the images of a row's samples, and says how the row ended.

        Args:
            before: the flagged row that stays unless the new image is better.
        """
        for number, translation in enumerate(translations):
            if translation.status != DONE:
                return failed_sample(row, number, translation)
        verdict = gates.judge(translations[0].losses, self._limits)
        retry = before.retries + 1 if before else 0
        if before and not gates.is_better(verdict, gates.judge(before.losses, self._limits)):
            return replace(before, retries=retry)
        first, *others = [
            Sample(
                number,
                *self._image_writer.write(row, number, translation, retry),
                seed=translation.seed,
                steps=translation.steps,
                restarts=translation.restarts,
                seconds=translation.seconds,
                slots=translation.slots,
                losses=translation.losses,
            )
            for number, translation in enumerate(translations)
        ]
        return Outcome(
            DONE,
            **{name: getattr(first, name) for name in _OF_IMAGES},
            flagged=verdict.flagged,
            retries=retry,
            samples=before.samples if before else others or None,
        )


class _Place:
    """A place among the rows that wait in memory; left once, however often it is asked."""

    def __init__(self, places: threading.Semaphore) -> None:
        self._places: threading.Semaphore | None = places
        places.acquire()

    def leave(self) -> None:
        if self._places is not None:
            self._places.release()
            self._places = None


def _when_all(futures: Sequence[Future[Any]], then: Callable[[], object]) -> None:
    """Calls `then` once, when the last of them is done."""
    left = itertools.count(len(futures) - 1, -1)
    for future in futures:
        future.add_done_callback(lambda _: then() if next(left) == 0 else None)


def _fetch(uri: str) -> bytes:
    return storage.read_bytes(uri, retries.FETCH)
