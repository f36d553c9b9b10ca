"""The numbers of the whole run, as Prometheus gauges of the driver."""

from __future__ import annotations

from dstc.worker.prometheus import RunMetrics


class DriverMetrics:
    """The gauges of a run.

    Args:
        run_id: tag of all numbers.
    """

    def __init__(self, run_id: str) -> None:
        self._set = RunMetrics(run_id).record

    def show(
        self,
        *,
        rows: int,
        rows_ended: int,
        shards: int,
        shards_done: int,
        actors_wanted: int,
        actors_at_most: int,
        actors_running: int,
        actor_starts: int,
    ) -> None:
        """Shows these numbers; to be called every few seconds, even if none has changed.

        Ray reports a gauge only in the 10 s interval in which it was set, and forgets it 20 s
        later. `Monitor` calls it at each poll, every second, or 6 s while its count is silent, and
        once more when the run has ended.

        Args:
            rows, shards: of the run, those of earlier invocations included.
            rows_ended, shards_done: of them, so far.
            actors_wanted: what the run keeps at least. actors_at_most: what it may grow to.
            actors_running: those heard of lately.
            actor_starts: processes started for them so far; of a pool of fixed size, those beyond
                it are restarts.
        """
        self._set("dstc_run_rows", rows)
        self._set("dstc_run_rows_ended", rows_ended)
        self._set("dstc_run_shards", shards)
        self._set("dstc_run_shards_done", shards_done)
        self._set("dstc_run_actors_wanted", actors_wanted)
        self._set("dstc_run_actors_at_most", actors_at_most)
        self._set("dstc_run_actors_running", actors_running)
        self._set("dstc_run_actor_starts", actor_starts)
