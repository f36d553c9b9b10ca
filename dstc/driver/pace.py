"""Progress, rate and time left of a run, from the reports of its actors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dstc.worker.row_count import Snapshot

# What "now" means in a rate: long enough to hold many shards' ends, short enough to follow changes.
_RATE_WINDOW_S = 300.0


@dataclass(frozen=True)
class Pace:
    """Progress, rate and time left of a run.

    Attributes:
        rows_ended: of the whole run, those of earlier invocations included.
        rows_done: these, and rows in slots by the share of their steps that is done.
        rate: rows per second over the last minutes; None before a row of this invocation ended.
        seconds_left: at that rate; None before there is one.
    """

    rows_ended: int
    rows_done: float
    rate: float | None
    seconds_left: float | None


class PaceMeter:
    """Reads the pace from one snapshot after another.

    The rate is what an actor does in a second of its own, times the actors at work. So it is right
    from the first row on, whether actors begin together or not, and loading is not in it.

    Args:
        rows: of the run. rows_before: of them, in shards that had ended before.
    """

    def __init__(self, rows: int, rows_before: int) -> None:
        self._rows = rows
        self._rows_before = rows_before
        # (time, seconds of all actors, rows done in them), where the rows changed.
        self._window: deque[tuple[float, float, float]] = deque()
        self.pace = Pace(rows_before, rows_before, None, None)

    def take(self, snapshot: Snapshot, now: float) -> None:
        """Takes in the latest snapshot, taken at `now` (seconds of any steady clock)."""
        ended = min(self._rows, self._rows_before + snapshot.rows)
        # A bar does not go back where a row starts again, or a process dies.
        done = max(self.pace.rows_done, self._rows_before + snapshot.rows + snapshot.work.underway)
        done = min(self._rows, done)
        rate = self._rate(snapshot, now)
        left = (self._rows - done) / rate if rate else None
        self.pace = Pace(ended, done, rate, left)

    def _rate(self, snapshot: Snapshot, now: float) -> float | None:
        if not snapshot.actors_at_work:
            return None
        # Rows that ended without the engine: rejected, or failed on the way to it.
        others = snapshot.rows - snapshot.rows_kept - snapshot.work.rows
        rows = snapshot.work.done + others
        window = self._window
        if not window:
            # Rows are looked at well ahead of the engine: those rejected so far took no time of it.
            window.append((now, 0.0, others))
        if rows != window[-1][2]:
            window.append((now, snapshot.work.seconds, rows))
        while len(window) > 2 and now - window[0][0] > _RATE_WINDOW_S:
            window.popleft()
        _, seconds, earlier = window[0]
        if not snapshot.work.rows or rows <= earlier or snapshot.work.seconds <= seconds:
            return None
        return (rows - earlier) / (snapshot.work.seconds - seconds) * snapshot.actors_at_work
