"""Prometheus metrics of a running job, recorded with Ray's metrics.

For the eye only: nothing here raises into the job, and without a running Ray nothing happens. Tags
are few and of few values; never a row id or a URI. `docs/prometheus.md` has the table.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray.util.metrics import Counter, Gauge, Histogram

log = logging.getLogger(__name__)

# A reason is a word of our code. Should anything else come, it must not become a series each.
_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MOST_WORDS = 40

_QUEUE_WAIT_BOUNDS_S = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0]


@dataclass(frozen=True)
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

    def register(self, run_id: str) -> Callable[[float, dict[str, str]], None]:
        """Registers it with Ray in this process; a second time adds to the same series.

        Returns:
            What takes a number and its tags: `inc` of a counter, `set`, or `observe`.
        """
        name, description, keys = self.name, self.description, ("run_id", *self.tags)
        run = {"run_id": run_id}
        if self.kind == "counter":
            return Counter(name, description, keys).set_default_tags(run).inc
        if self.kind == "gauge":
            return Gauge(name, description, keys).set_default_tags(run).set
        return (
            Histogram(name, description, _QUEUE_WAIT_BOUNDS_S, keys).set_default_tags(run).observe
        )


METRICS = (
    Metric("dstc_rows_ended", "counter", ("status", "reason"), "Rows that ended in an actor"),
    Metric("dstc_shards_ended", "counter", (), "Shards that left an actor"),
    Metric("dstc_phase_seconds", "counter", ("phase",), "Seconds that rows spent in a phase"),
    Metric("dstc_queue_wait_seconds", "histogram", (), "Wait of a row for a slot"),
    Metric("dstc_steps", "counter", (), "Steps of the engines"),
    Metric("dstc_step_seconds", "counter", (), "Seconds inside steps of the engines"),
    Metric("dstc_slot_steps", "counter", (), "Slots of the engines, summed over steps"),
    Metric("dstc_busy_slot_steps", "counter", (), "Slots that held a row, summed over steps"),
    Metric("dstc_engine_rebuilds", "counter", ("reason",), "Engines built again after an error"),
    Metric("dstc_row_restarts", "counter", (), "Range restarts of rows"),
    Metric(
        "dstc_storage_bytes", "counter", ("direction",), "Bytes read from or written to storage"
    ),
    Metric("dstc_storage_retries", "counter", (), "Further attempts at storage"),
    Metric("dstc_run_rows", "gauge", (), "Rows of the run"),
    Metric("dstc_run_rows_ended", "gauge", (), "Rows that have ended, each counted once"),
    Metric("dstc_run_shards", "gauge", (), "Shards of the run"),
    Metric("dstc_run_shards_done", "gauge", (), "Shards whose results are written"),
    Metric("dstc_run_actors_wanted", "gauge", (), "Actors that the run keeps at least"),
    Metric("dstc_run_actors_at_most", "gauge", (), "Actors that the run may grow to"),
    Metric("dstc_run_actors_running", "gauge", (), "Actors that were heard of lately"),
    Metric("dstc_run_actor_starts", "gauge", (), "Actor processes started, restarts included"),
)
_BY_NAME = {metric.name: metric for metric in METRICS}


class RunMetrics:
    """The metrics of a run in this process, each registered when it is first recorded.

    Args:
        run_id: tag of all numbers.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._has_ray = ray.is_initialized()
        self._registered: dict[str, Callable[[float, dict[str, str]], None]] = {}

    def record(self, name: str, value: float, **tags: str) -> None:
        """Adds to a counter, sets a gauge, or puts a number into a histogram; never raises.

        From any thread, and at once: a call of Ray's costs 5 us, and a row needs ten of them.
        """
        if not self._has_ray:
            return
        try:
            metric = _BY_NAME[name]
            if value <= 0 and metric.kind == "counter":
                return  # Ray refuses to add nothing
            if name not in self._registered:
                self._registered[name] = metric.register(self._run_id)
            self._registered[name](value, tags)
        except Exception as error:  # no number is worth a row
            log.debug("a metric is lost", exc_info=error)


class ActorMetrics:
    """The numbers of one actor process. Its verbs may be called by any thread.

    Args:
        run_id: tag of all numbers.
    """

    def __init__(self, run_id: str) -> None:
        self._record = RunMetrics(run_id).record
        self._words: set[str] = set()

    def row_ended(self, status: str, reason: str | None = None) -> None:
        """A row ended: done, rejected or failed; the reason is short and countable."""
        self._record("dstc_rows_ended", 1, status=status, reason=self._word(reason))

    def spend(self, phase: str, seconds: float) -> None:
        """A row spent so long in a phase: fetch, queue, translate or write."""
        self._record("dstc_phase_seconds", seconds, phase=phase)
        if phase == "queue":
            self._record("dstc_queue_wait_seconds", seconds)

    def step(self, seconds: float, busy: int, slots: int) -> None:
        """The engine took a step of so many seconds; busy of its slots held a row."""
        self._record("dstc_steps", 1)
        self._record("dstc_step_seconds", seconds)
        self._record("dstc_slot_steps", slots)
        self._record("dstc_busy_slot_steps", busy)

    def engine_rebuilt(self, reason: str) -> None:
        """A step raised, and the engine is built anew: engine_error or out_of_memory."""
        self._record("dstc_engine_rebuilds", 1, reason=self._word(reason))

    def row_restarts(self, number: int) -> None:
        """A row ended that had started again so often."""
        self._record("dstc_row_restarts", number)

    def moved(self, direction: str, size: int) -> None:
        """So many bytes were "read" or "written"."""
        self._record("dstc_storage_bytes", size, direction=direction)

    def storage_retry(self) -> None:
        """Storage is asked once more for the same thing."""
        self._record("dstc_storage_retries", 1)

    def shard_ended(self) -> None:
        """A shard ended."""
        self._record("dstc_shards_ended", 1)

    def _word(self, reason: str | None) -> str:
        if reason is None:
            return "none"
        if reason not in self._words:
            if len(self._words) >= _MOST_WORDS or not _WORD.fullmatch(reason):
                return "other"
            self._words.add(reason)
        return reason
