"""Prometheus metrics of a running job, exported through Ray's metrics.

For the eye only: nothing here raises into the job, and without a running Ray nothing happens. Tags
are few and of few values; never a row id or a URI. `docs/prometheus.md` has the table.
"""

from __future__ import annotations

import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import ray
from ray.util.metrics import Counter, Gauge, Histogram

log = logging.getLogger(__name__)

# One of Ray's calls costs 2 - 5 us, a sum in a dict below 1. A fake engine ends 1,000 rows a
# second, each with ten verbs; nobody scrapes more often than once a second.
FLUSH_EVERY_S = 1.0
# Ray reports a gauge only in the 10 s interval in which it was set, and forgets it 20 s later.
SHOW_EVERY_S = 2.0
# A reason is a word of our code. Should anything else come, it must not become a series each.
_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MOST_WORDS = 40

_QUEUE_WAIT_BOUNDS_S = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0]


@dataclass(frozen=True, eq=False)
class Metric:
    """Definition of a metric, as Ray registers it.

    Attributes:
        name: without the `ray_` that Ray puts before it, or the `_total` behind a counter.
        kind: "counter", "gauge" or "histogram".
        tags: besides run_id, which all have.
        description: shown as its help.
    """

    name: str
    kind: str
    tags: tuple[str, ...]
    description: str

    @property
    def exported(self) -> tuple[str, ...]:
        """The names of its series in a scrape."""
        name = f"ray_{self.name}"
        if self.kind == "counter":
            return (f"{name}_total",)
        if self.kind == "histogram":
            return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
        return (name,)


def _counter(name: str, tags: tuple[str, ...], description: str) -> Metric:
    return Metric(f"dstc_{name}", "counter", tags, description)


def _gauge(name: str, description: str) -> Metric:
    return Metric(f"dstc_{name}", "gauge", (), description)


ROWS_ENDED = _counter("rows_ended", ("status", "reason"), "Rows that ended in an actor")
SHARDS_ENDED = _counter("shards_ended", (), "Shards that left an actor")
PHASE_SECONDS = _counter("phase_seconds", ("phase",), "Seconds that rows spent in a phase")
QUEUE_WAIT = Metric("dstc_queue_wait_seconds", "histogram", (), "Wait of a row for a slot")
STEPS = _counter("steps", (), "Steps of the engines")
STEP_SECONDS = _counter("step_seconds", (), "Seconds inside steps of the engines")
SLOT_STEPS = _counter("slot_steps", (), "Slots of the engines, summed over steps")
BUSY_SLOT_STEPS = _counter("busy_slot_steps", (), "Slots that held a row, summed over steps")
ENGINE_REBUILDS = _counter("engine_rebuilds", ("reason",), "Engines built again after an error")
ROW_RESTARTS = _counter("row_restarts", (), "Range restarts of rows")
STORAGE_BYTES = _counter("storage_bytes", ("direction",), "Bytes read from or written to storage")
STORAGE_RETRIES = _counter("storage_retries", (), "Further attempts at storage")

RUN_ROWS = _gauge("run_rows", "Rows of the run")
RUN_ROWS_ENDED = _gauge("run_rows_ended", "Rows that have ended, each counted once")
RUN_SHARDS = _gauge("run_shards", "Shards of the run")
RUN_SHARDS_DONE = _gauge("run_shards_done", "Shards whose results are written")
RUN_ACTORS_WANTED = _gauge("run_actors_wanted", "Actors that the run keeps at least")
RUN_ACTORS_AT_MOST = _gauge("run_actors_at_most", "Actors that the run may grow to")
RUN_ACTORS_RUNNING = _gauge("run_actors_running", "Actors that were heard of lately")
RUN_ACTOR_STARTS = _gauge("run_actor_starts", "Actor processes started, restarts included")

METRICS = (
    ROWS_ENDED,
    SHARDS_ENDED,
    PHASE_SECONDS,
    QUEUE_WAIT,
    STEPS,
    STEP_SECONDS,
    SLOT_STEPS,
    BUSY_SLOT_STEPS,
    ENGINE_REBUILDS,
    ROW_RESTARTS,
    STORAGE_BYTES,
    STORAGE_RETRIES,
    RUN_ROWS,
    RUN_ROWS_ENDED,
    RUN_SHARDS,
    RUN_SHARDS_DONE,
    RUN_ACTORS_WANTED,
    RUN_ACTORS_AT_MOST,
    RUN_ACTORS_RUNNING,
    RUN_ACTOR_STARTS,
)


class Recorder(Protocol):
    """Where metrics are recorded: in Ray, or in a list of a test."""

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Adds a positive number to a counter."""

    def set(self, metric: Metric, value: float) -> None:
        """Sets a gauge."""

    def observe(self, metric: Metric, value: float) -> None:
        """Puts a number into a histogram."""


class RayRecorder:
    """Hands numbers to Ray; one of the same run in the same process adds to the same series."""

    def __init__(self, run_id: str) -> None:
        self._run = {"run_id": run_id}
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Adds a positive number to a counter."""
        made = self._made.get(metric.name) or self._make(metric)
        assert isinstance(made, Counter)
        made.inc(value, {**self._run, **tags})

    def set(self, metric: Metric, value: float) -> None:
        """Sets a gauge."""
        made = self._made.get(metric.name) or self._make(metric)
        assert isinstance(made, Gauge)
        made.set(value, self._run)

    def observe(self, metric: Metric, value: float) -> None:
        """Puts a number into a histogram."""
        made = self._made.get(metric.name) or self._make(metric)
        assert isinstance(made, Histogram)
        made.observe(value, self._run)

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        name, description, keys = metric.name, metric.description, ("run_id", *metric.tags)
        made: Counter | Gauge | Histogram
        if metric.kind == "counter":
            made = Counter(name, description, keys)
        elif metric.kind == "gauge":
            made = Gauge(name, description, keys)
        else:
            made = Histogram(name, description, _QUEUE_WAIT_BOUNDS_S, keys)
        self._made[name] = made
        return made


def _ray_recorder(run_id: str) -> Recorder | None:
    return RayRecorder(run_id) if ray.is_initialized() else None


Self = TypeVar("Self")
Arguments = ParamSpec("Arguments")


def _for_the_eye(
    verb: Callable[Concatenate[Self, Arguments], None],
) -> Callable[Concatenate[Self, Arguments], None]:
    """The verb, with its errors logged instead of raised: no number is worth a row."""

    @functools.wraps(verb)
    def quiet(self: Self, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        try:
            verb(self, *arguments, **options)
        except Exception as error:
            log.debug("a metric is lost", exc_info=error)

    return quiet


class ActorMetrics:
    """The numbers of one actor process. Its verbs may be called by any thread.

    Counters are summed here and handed on about once a second, by whichever verb comes next, and by
    `shard_ended`.

    Args:
        run_id: tag of all numbers.
        recorder: where they go; by default Ray, and nowhere when no Ray runs.
    """

    def __init__(self, run_id: str, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or _ray_recorder(run_id)
        self._lock = threading.Lock()
        self._sums: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._flushed = time.monotonic()
        self._words: set[str] = set()

    @_for_the_eye
    def row_ended(self, status: str, reason: str | None = None) -> None:
        """A row ended: done, rejected or failed; the reason is short and countable."""
        self._add((ROWS_ENDED, 1, (status, self._word(reason))))

    @_for_the_eye
    def spend(self, phase: str, seconds: float) -> None:
        """A row spent so long in a phase: fetch, queue, translate or write."""
        self._add((PHASE_SECONDS, seconds, (phase,)))
        if phase == "queue" and self._recorder is not None:
            self._recorder.observe(QUEUE_WAIT, seconds)

    @_for_the_eye
    def step(self, seconds: float, busy: int, slots: int) -> None:
        """The engine took a step of so many seconds; busy of its slots held a row."""
        self._add(
            (STEPS, 1, ()),
            (STEP_SECONDS, seconds, ()),
            (SLOT_STEPS, slots, ()),
            (BUSY_SLOT_STEPS, busy, ()),
        )

    @_for_the_eye
    def engine_rebuilt(self, reason: str) -> None:
        """A step raised, and the engine is built anew: engine_error or out_of_memory."""
        self._add((ENGINE_REBUILDS, 1, (self._word(reason),)))

    @_for_the_eye
    def row_restarts(self, number: int) -> None:
        """A row ended that had started again so often."""
        self._add((ROW_RESTARTS, number, ()))

    @_for_the_eye
    def moved(self, direction: str, size: int) -> None:
        """So many bytes were "read" or "written"."""
        self._add((STORAGE_BYTES, size, (direction,)))

    @_for_the_eye
    def storage_retry(self) -> None:
        """Storage is asked once more for the same thing."""
        self._add((STORAGE_RETRIES, 1, ()))

    @_for_the_eye
    def shard_ended(self) -> None:
        """A shard ended; what was summed up is handed on, since nothing may follow for long."""
        self._add((SHARDS_ENDED, 1, ()))
        self._flush()

    def _add(self, *amounts: tuple[Metric, float, tuple[str, ...]]) -> None:
        if self._recorder is None:
            return
        with self._lock:
            for metric, value, tags in amounts:
                self._sums[metric, tags] = self._sums.get((metric, tags), 0) + value
            due = time.monotonic() - self._flushed >= FLUSH_EVERY_S
        if due:
            self._flush()

    def _flush(self) -> None:
        if self._recorder is None:
            return
        with self._lock:
            sums, self._sums = self._sums, {}
            self._flushed = time.monotonic()
        for (metric, tags), value in sums.items():
            if value > 0:  # Ray refuses to add nothing
                self._recorder.add(metric, value, dict(zip(metric.tags, tags, strict=True)))

    def _word(self, reason: str | None) -> str:
        if reason is None:
            return "none"
        if reason not in self._words:
            if len(self._words) >= _MOST_WORDS or not _WORD.fullmatch(reason):
                return "other"
            self._words.add(reason)
        return reason


class DriverMetrics:
    """The numbers of the whole run, shown again and again while its `with` block runs.

    Args:
        run_id: tag of all numbers.
        recorder: where they go; by default Ray, and nowhere when no Ray runs.
        again_every_s: so often the last numbers are shown again.
    """

    def __init__(
        self, run_id: str, recorder: Recorder | None = None, again_every_s: float = SHOW_EVERY_S
    ) -> None:
        self._recorder = recorder or _ray_recorder(run_id)
        self._again_every_s = again_every_s
        self._lock = threading.Lock()
        self._numbers: dict[Metric, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show_again, name="metrics", daemon=True)

    def __enter__(self) -> DriverMetrics:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def show(
        self,
        *,
        rows: int | None = None,
        rows_ended: int | None = None,
        shards: int | None = None,
        shards_done: int | None = None,
        actors_wanted: int | None = None,
        actors_at_most: int | None = None,
        actors_running: int | None = None,
        actor_starts: int | None = None,
    ) -> None:
        """Shows these numbers from now on; None leaves one as it was, or not shown at all.

        Args:
            rows, shards: of the run, those of earlier invocations included.
            rows_ended, shards_done: of them, so far.
            actors_wanted: what the run keeps at least. actors_at_most: what it may grow to.
            actors_running: those heard of lately.
            actor_starts: processes started for them so far; of a pool of fixed size, those beyond
                it are restarts.
        """
        numbers = {
            RUN_ROWS: rows,
            RUN_ROWS_ENDED: rows_ended,
            RUN_SHARDS: shards,
            RUN_SHARDS_DONE: shards_done,
            RUN_ACTORS_WANTED: actors_wanted,
            RUN_ACTORS_AT_MOST: actors_at_most,
            RUN_ACTORS_RUNNING: actors_running,
            RUN_ACTOR_STARTS: actor_starts,
        }
        with self._lock:
            self._numbers |= {metric: n for metric, n in numbers.items() if n is not None}
        self._set_all()

    def _show_again(self) -> None:
        while not self._stop.wait(self._again_every_s):
            self._set_all()

    @_for_the_eye
    def _set_all(self) -> None:
        if self._recorder is None:
            return
        with self._lock:
            numbers = dict(self._numbers)
        for metric, number in numbers.items():
            self._recorder.set(metric, number)
