"""The thread that waits for nothing, and so sees what others wait for in vain.

A fetch that is beyond its deadline fails, and its thread is given up. A call of the engine cannot
be given up, since its device is held with it: the process ends itself, after a note of what held
it, and Ray starts a fresh one. Where no thread of Python runs any more (a call of C that keeps the
interpreter's lock), `faulthandler`, which needs none, ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import threading
from collections.abc import Callable, Sequence

from dstc.worker.engine_thread import EngineThread
from dstc.worker.timed_threads import TimedThreads

log = logging.getLogger(__name__)

# Threads that were given up hold their memory and perhaps a core; beyond these a fresh process is
# better.
MOST_STUCK = 32
# The interpreter's lock is also held by imports on a busy machine, for seconds.
_LEAST_STANDSTILL_S = 300.0
# Storage is waited for five minutes when the end is noted (`retries.STEADY`).
_NOTES_S = 900.0


class Watchdog:
    """Watches the threads of an actor, in one of its own.

    Args:
        fetchers, engine: watched. deadline_s: of a row.
        before_end: called before the process ends, with the rows in slots of a call that does not
            return, as (shard_order, id); with none where fetches are to blame.
    """

    def __init__(
        self,
        fetchers: TimedThreads,
        engine: EngineThread,
        deadline_s: float,
        before_end: Callable[[Sequence[tuple[int, str]]], None],
    ) -> None:
        self._fetchers, self._engine = fetchers, engine
        self._deadline_s, self._before_end = deadline_s, before_end
        self._closed = threading.Event()
        self._stand_by()  # a first row may hold the lock before the thread has it once
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Watches no longer."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self._deadline_s / 4)):
            self._stand_by()
            try:
                self._fetchers.give_up_overdue()
            except Exception:  # of one row's end; the others are still watched
                log.exception("a row beyond its deadline")
            rows = self._engine.rows_in_the_way()
            if rows or self._fetchers.stuck >= MOST_STUCK:
                self._end_process(rows)
        faulthandler.cancel_dump_traceback_later()

    def _stand_by(self) -> None:
        _end_process_in(max(self._deadline_s, _LEAST_STANDSTILL_S))

    def _end_process(self, rows: Sequence[tuple[int, str]]) -> None:
        log.critical(
            "%d fetches do not return, and the engine does not with %s; ending this process",
            self._fetchers.stuck,
            ", ".join(repr(row_id) for _, row_id in rows) or "no row",
        )
        _end_process_in(_NOTES_S)
        try:
            self._before_end(rows)
        finally:
            os._exit(1)


def _end_process_in(seconds: float) -> None:
    # Where there is no stderr to say so, it is done without: the rest of the watch goes on.
    with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
        faulthandler.dump_traceback_later(seconds, exit=True)
