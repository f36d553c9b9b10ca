"""The actor that translates: one shard in, its result rows out.

    check -> fetch, decode, fit (threads) -> engine (one thread) -> finish, PNG to storage (threads)

Ray calls it with two shards at a time. Each sample of a row is a request of its own to the engine.
Images are written before the shard's result rows leave the actor (`image_store.py`), and a shard
that is run again writes the same files again; a flagged row tried with another seed writes beside
the old image, and only if the new one is better. No fault of a row leaves a call as an
exception. Every half minute the rows that have ended are kept aside, so that a process which dies
costs little more than the rows in its slots.
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
from dstc.store import retries
from dstc.store.cells import read_records
from dstc.store.inputs import read_input
from dstc.store.packed_rows import unpack_rows
from dstc.store.results import DONE, Outcome, Sample, outcome_table, result_table
from dstc.store.row_digests import unpack_digests
from dstc.text import describe
from dstc.worker import gates
from dstc.worker.attempts import Attempt
from dstc.worker.backlog import wait_for_writers
from dstc.worker.company import Company
from dstc.worker.earlier_rows import find_earlier_rows
from dstc.worker.engine_thread import EngineThread, Occupancy
from dstc.worker.image_cache import ImageCache
from dstc.worker.image_writer import ImageWriter
from dstc.worker.labels import read_labels, with_images
from dstc.worker.named_rows import naming_rows
from dstc.worker.places import Place
from dstc.worker.prometheus import ActorMetrics
from dstc.worker.row import (
    Row,
    check_row,
    derive_retry_seed,
    derive_sample_seed,
    load_request,
)
from dstc.worker.row_count import BEAT_EVERY_S, blaming, tell
from dstc.worker.row_outcome import checked, failed_sample, outcome_of, settled
from dstc.worker.rows_translated import RowsTranslated
from dstc.worker.shard_run import Clock, ShardRun, note_end
from dstc.worker.shard_task import ShardTask
from dstc.worker.timed_threads import Begin, Overdue, TimedThreads
from dstc.worker.watchdog import Watchdog
from dstc.worker.when_all import when_all
from dstc.worker.write_results import output_of
from dstc_engine.decoding.read import Decoded
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.token_count import count_tokens

log = logging.getLogger(__name__)

# Storage answers in tens of milliseconds and steps take longer: a few threads keep slots fed.
FETCH_THREADS = 8
WRITE_THREADS = 4
# Reading one image takes under a second, and storage that does not answer has a minute of retries
# (`retries.FETCH`); a body of a byte now and then would hold its thread for an hour.
READ_DEADLINE_S = 300.0
# Decoded images that rows share, by column: contents, each asked for a few times at most, may not
# push out styles, which all rows ask for. A photograph of 12 megapixels takes 36 MB.
CACHED_BYTES = {"content": 128 << 20, "style": 256 << 20, "mask": 64 << 20}

_OF_IMAGES = tuple(field.name for field in fields(Sample) if field.name != "sample")
_KNOWN_COLUMNS = ("id", "content", "style", "prompt", "source_prompt", "mask", "seed")


class TranslateShard:
    """Translates shards: Ray Data calls it with one packed `read_shards.SHARD_SCHEMA` per thread.

    Args:
        task: of the run. row_count: a `RowCount` actor, or None.
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
        self._image_writer = ImageWriter.of(task)
        self._store = self._image_writer.store
        self._labels = task.settings.label_columns
        slots = task.settings.slots
        self._metrics = ActorMetrics(task.run_id)
        retries.watch(self._metrics)
        with blaming(row_count):
            spec = find_engine(task.settings.engine)
            make_engine = make_engine or spec.make(task)
            self._prepare = spec.prepare(task.settings)
        self._engine = EngineThread(
            make_engine,
            slots,
            on_step=self._metrics.step,
            on_rebuild=self._metrics.engine_rebuilt,
            deadline_s=task.settings.row_deadline_s,
        )
        self._fetchers = TimedThreads(FETCH_THREADS, task.settings.row_deadline_s, "fetch")
        self._writers = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="write")
        self._images = {name: ImageCache[Decoded](limit) for name, limit in CACHED_BYTES.items()}
        self._inputs = task.settings.inputs
        # Decoded images may be large: only so many rows wait in memory for a slot.
        self._room_ahead = threading.Semaphore(slots + FETCH_THREADS)
        self._company = Company()
        self._translated = RowsTranslated()
        self._orders = itertools.count()
        self._at_work: list[ShardRun] = []
        self._closed = threading.Event()
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()
        end = partial(note_end, self._at_work, task.run)
        deadline = task.settings.row_deadline_s
        self._watchdog = Watchdog(self._fetchers, self._engine, deadline, end)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Translates one shard; its result rows in the order of its manifest rows.

        Raises:
            OutputError: results cannot be written any more.
        """
        wait_for_writers(self._row_count)
        with blaming(self._row_count):
            return self._run_shard(batch)

    def _run_shard(self, batch: pa.Table) -> pa.Table:
        (record,) = batch.drop_columns(["rows"]).to_pylist()
        rows = unpack_rows(batch.column("rows")[0].as_buffer())
        shard = ShardRun(
            number=record["shard"],
            order=next(self._orders),
            folder=record["folder"],
            attempt=Attempt(self._task.run, record["shard"]),
            duplicate_of=dict(record["duplicates"]),
            first_row=record["first_row"],
            metrics=self._metrics,
            digests=unpack_digests(record["digests"]),
            so_far=self._store.so_far,
        )
        occupancy = self._engine.occupancy
        self._at_work.append(shard)
        try:
            with naming_rows(shard.first_row, rows.num_rows, shard.number):
                results = self._translate(shard, rows)
        finally:
            self._at_work.remove(shard)
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
        tell(self._row_count, "end", shard.number)
        replaced = self._store.replaced(shard.number)
        return output_of(shard.number, results, shard.stop_saving(), replaced)

    def close(self) -> None:
        """Ends the threads; only needed where the process lives on."""
        self._closed.set()
        self._watchdog.close()
        self._engine.close()
        self._fetchers.shutdown()
        self._writers.shutdown()

    def _pulse(self) -> None:
        """Says that this actor is there, and keeps what would be lost with it."""
        before = Occupancy()
        while True:
            now = self._engine.occupancy
            busy, slots = now.busy - before.busy, now.slots - before.slots
            work = self._translated.work(self._engine.output)
            tell(self._row_count, "beat", self._process, busy, slots, work)
            before = now
            for shard in list(self._at_work):
                try:
                    shard.save(self._task.run)
                except Exception as error:  # a comfort, no duty: the rows are still in memory
                    log.warning("shard %d: rows so far not kept: %s", shard.number, describe(error))
            if self._closed.wait(BEAT_EVERY_S):
                return

    def _translate(self, shard: ShardRun, rows: pa.Table) -> pa.Table:
        run, retry = self._task.run, self._task.settings.retry
        wanted = shard.rows_wanted(rows.num_rows, self._task.settings.limit)
        before = find_earlier_rows(
            run, shard.number, rows, shard.attempt.is_rerun, retry, shard.digests, wanted
        )
        before = self._store.hold(shard.number, rows, before)
        shard.attempt.follow(before.attempt)
        kept, places = before.kept, before.places
        if shard.attempt.is_rerun:
            shard.attempt.keep(len(places))
        is_kept = set(places)
        # A part has no gaps: what it lost before a kept row runs again, whatever the limit.
        todo = [o for o in range(max([wanted, *(p + 1 for p in places)])) if o not in is_kept]
        shard.start(rows.num_rows, before)
        tell(self._row_count, "tell", shard.number, shard.count(len(places)))
        new = outcome_table(self._outcomes(shard, rows, todo))
        row_at = {offset: row for row, offset in enumerate([*places, *todo])}
        ended = range(len(row_at))
        order = pa.array([row_at[offset] for offset in ended], pa.int64())
        outcomes = pa.concat_tables([kept, new]).take(order)
        shard.stop_saving()
        # A slice, since Arrow cannot take rows of every column that it can hold.
        results = self._store.finish(
            shard.number, result_table(rows.slice(0, len(ended)), outcomes)
        )
        return shard.with_facts(results, ended)

    def _outcomes(self, shard: ShardRun, rows: pa.Table, offsets: Sequence[int]) -> list[Outcome]:
        names = (*_KNOWN_COLUMNS, *(column.path[0] for column in self._labels))
        values = list(zip(offsets, read_records(rows, names, offsets), strict=True))
        if shard.attempt.is_careful:
            with self._company.alone():
                return [self._run_carefully(shard, offset, row) for offset, row in values]
        return [
            future.result()
            for future in [self._start_row(shard, offset, row) for offset, row in values]
        ]

    # -- one row ---------------------------------------------------------------------------------

    def _start_row(self, shard: ShardRun, offset: int, values: dict[str, Any]) -> Future[Outcome]:
        """Puts a row on its way; each of its steps leads to the next, or to `end`."""
        ended: Future[Outcome] = Future()
        before = shard.flagged.get(offset)
        place = Place(self._room_ahead)
        row: Row | None = None

        def end(outcome: Outcome, was_translated: bool) -> None:
            try:
                outcome = settled(outcome, before)
                self._end_row(shard, offset, outcome, was_translated)
            finally:
                place.leave()
                self._company.leave()
                ended.set_result(outcome)

        def fetch(begin: Begin) -> tuple[list[TranslationRequest], Clock]:
            nonlocal row
            place.take()
            self._company.join()
            begin()
            clock = Clock(shard)
            row = self._check(shard, offset, values)
            shard.attempt.refuse_deadly(row.id)
            requests = self._requests(row, shard, before)
            row = with_images(row, requests[0], shard.folder, self._fetch)
            clock.lap("fetch")
            return requests, clock

        def translate(fetched: Future[tuple[list[TranslationRequest], Clock]]) -> None:
            try:
                requests, clock = fetched.result()
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
            except BaseException as error:  # whatever a decoder raises
                if isinstance(error, Overdue) and row is not None:
                    shard.attempt.give_up(row.id)
                end(outcome_of(error, row, values), was_translated=False)
                return

            def keep() -> None:
                try:
                    self._writers.submit(write, translations, clock)
                except BaseException as error:  # a machine that starts no thread any more
                    end(outcome_of(error, row, values), was_translated=True)

            when_all(translations, keep)

        def write(done: Sequence[Future[Translation]], clock: Clock) -> None:
            try:
                assert row is not None
                clock.lap("translate")
                translations = [translation.result() for translation in done]
                outcome = checked(self._keep(row, translations, before))
                clock.lap("write")
            except OutputError as error:
                self._company.leave()
                ended.set_exception(error)  # no fault of the row: the job ends
                return
            except BaseException as error:
                outcome = outcome_of(error, row, values)
            end(outcome, was_translated=True)

        self._fetchers.submit(fetch).add_done_callback(translate)
        return ended

    def _run_carefully(self, shard: ShardRun, offset: int, values: dict[str, Any]) -> Outcome:
        """One row while nothing else is in this process, named before it starts."""
        row: Row | None = None
        before = shard.flagged.get(offset)
        clock = Clock(shard)
        translations: list[Future[Translation]] = []

        def fetch(begin: Begin) -> list[TranslationRequest]:
            nonlocal row
            begin()
            assert row is not None
            requests = self._requests(row, shard, before)
            row = with_images(row, requests[0], shard.folder, self._fetch)
            return requests

        try:
            row = self._check(shard, offset, values)
            shard.attempt.refuse_deadly(row.id)
            # Beside a fetch that was given up and still runs, a death may be that one's.
            with shard.attempt.alone(row.id, is_sure=not self._fetchers.stuck):
                requests = self._fetchers.run_now(fetch).result()
                clock.lap("fetch")
                translations = [
                    self._engine.submit(request, shard.order, alone=True, rows=1 / len(requests))
                    for request in requests
                ]
                outcomes = [translation.result() for translation in translations]
                clock.lap("translate")
                outcome = checked(self._keep(row, outcomes, before))
                clock.lap("write")
        except OutputError:
            raise
        except BaseException as error:
            outcome = outcome_of(error, row, values)
        outcome = settled(outcome, before)
        self._end_row(shard, offset, outcome, was_translated=bool(translations))
        return outcome

    def _end_row(
        self, shard: ShardRun, offset: int, outcome: Outcome, was_translated: bool
    ) -> None:
        try:
            shard.end_row(offset, outcome)
            with self._translated.counted(was_translated):
                rows, work = shard.count(1), self._translated.work(self._engine.output)
                tell(self._row_count, "tell", shard.number, rows, self._process, work)
        except BaseException:  # of those who count; the row has its end all the same
            log.exception("shard %d, row %d: not counted", shard.number, offset)

    def _check(self, shard: ShardRun, offset: int, values: dict[str, Any]) -> Row:
        number = shard.first_row + offset
        seed = self._task.settings.seed
        row = check_row(values, number, seed, shard.duplicate_of.get(number), count_tokens)
        place = f"manifest row {number} ({row.id!r})"
        return replace(row, labels=read_labels(self._labels, values, place))

    def _requests(
        self, row: Row, shard: ShardRun, before: Outcome | None
    ) -> list[TranslationRequest]:
        """A request for each sample of a row; they share its images.

        Where a flagged row is tried again, one alone: its further images stay.
        """
        restores = self._task.settings.restore_size
        loaded = load_request(row, shard.folder, self._fetch, self._images, restores)
        request = self._prepare(loaded)
        if before is not None:
            return [replace(request, seed=derive_retry_seed(row.seed, before.retries + 1))]
        others = range(1, self._task.settings.samples_per_row)
        return [
            request,
            *(replace(request, seed=derive_sample_seed(row.seed, sample)) for sample in others),
        ]

    def _fetch(self, uri: str) -> bytes:
        return read_input(uri, self._inputs, retries.FETCH, READ_DEADLINE_S)

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
            error=row.note,
            **{name: getattr(first, name) for name in _OF_IMAGES},
            **gates.told(verdict, translations[0]),
            retries=retry,
            samples=before.samples if before else others or None,
            **self._image_writer.carry(row, translations[0]),
        )
