"""Threads whose calls have a deadline: one that is stuck is given up, and another takes its place.

A thread of Python cannot be ended from outside. It is left to itself, and what it returns, if it
ever does, is dropped.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
# What begins the time of a call: what it waited for before is no fault of its own.
Begin = Callable[[], None]

TIMED_OUT = "timed_out"
"""Reason of a row that was beyond its deadline."""


class Overdue(Exception):
    """A call was beyond its deadline."""


class _Call:
    def __init__(self, work: Callable[[Begin], Any], is_pooled: bool) -> None:
        self.work, self.is_pooled = work, is_pooled
        self.future: Future[Any] = Future()
        self.began: float | None = None
        self.is_stuck = False

    def begin(self) -> None:
        self.began = time.monotonic()


class TimedThreads:
    """A pool of threads; daemons all, so that a stuck one does not hold the process.

    Args:
        threads: how many work at once, those that are stuck not counted.
        deadline_s: of each call. name: of the threads.
    """

    def __init__(self, threads: int, deadline_s: float, name: str) -> None:
        self._deadline_s, self._name, self._threads = deadline_s, name, threads
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Call] = set()
        self._stuck = 0
        for _ in range(threads):
            self._start(self._serve)

    @property
    def stuck(self) -> int:
        """Threads that were given up and still run."""
        with self._lock:
            return self._stuck

    def submit(self, work: Callable[[Begin], Result]) -> Future[Result]:
        """Puts a call in line for a thread of the pool.

        Args:
            work: gets what it is to call when its time begins to count.

        Returns:
            What it returns or raises, be it no `Exception`; Overdue once its deadline is over.
        """
        call = _Call(work, is_pooled=True)
        self._waiting.put(call)
        return call.future

    def run_now(self, work: Callable[[Begin], Result]) -> Future[Result]:
        """As `submit`, at once, in a thread of its own beside the pool."""
        call = _Call(work, is_pooled=False)
        self._start(lambda: self._run(call))
        return call.future

    def give_up_overdue(self) -> None:
        """Gives up calls whose deadline is over; to be called now and then."""
        end = time.monotonic() - self._deadline_s
        with self._lock:
            overdue = [c for c in self._running if c.began is not None and c.began < end]
            for call in overdue:
                call.is_stuck = True
            self._running -= set(overdue)
            self._stuck += len(overdue)
        for call in overdue:
            call.future.set_exception(
                Overdue(f"not done after {self._deadline_s:g} s (--row-deadline)")
            )
        for call in overdue:
            if call.is_pooled:
                self._start(self._serve)

    def shutdown(self) -> None:
        """Lets the threads end when all calls in line have; waits for none."""
        for _ in range(self._threads):
            self._waiting.put(None)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while (call := self._waiting.get()) is not None:
            self._run(call)
            if call.is_stuck:
                return  # another thread has taken this place

    def _run(self, call: _Call) -> None:
        with self._lock:
            self._running.add(call)
        result, error = None, None
        try:
            result = call.work(call.begin)
        except BaseException as raised:  # SystemExit would end this thread, and nobody would know
            error = raised
        with self._lock:
            self._running.discard(call)
            if call.is_stuck:
                self._stuck -= 1
                return
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(result)
