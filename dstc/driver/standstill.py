"""Ends a job in which nothing moves any more, as Ray Data would, but by rows and steps."""

from __future__ import annotations

from dstc.worker.row_count import Snapshot


class Standstill:
    """Time in which nothing moved: no row ended, no step was taken, no process started.

    Args:
        limit_s: of a job. now: on the clock of `is_over`.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._moved_at = now
        self._state: object = None

    def is_over(self, snapshot: Snapshot, now: float) -> bool:
        """Whether nothing has moved for longer than the limit.

        Args:
            snapshot: the latest; only one that came just now says anything.
        """
        commits = snapshot.commits_before + len(snapshot.commits)
        processes = snapshot.starts, snapshot.workers_seen
        state = snapshot.rows, snapshot.work.done, commits, processes
        if state != self._state:
            self._state, self._moved_at = state, now
        return now - self._moved_at > self._limit_s
