"""One thread steps the engine; everybody else hands it requests and waits.

Rows wait in order of their shard, so that the older shard ends first and the newer one only fills
slots that would be empty. When a step raises, the rows in flight are run again one at a time: the
one at fault fails alone, and its neighbours get the pictures they would have had.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from dstc_engine.request import Translation, TranslationRequest

log = logging.getLogger(__name__)


class Engine(Protocol):
    """The verbs that `dstc_engine.Engine` and `FakeEngine` share."""

    def add(self, request: TranslationRequest) -> None:
        """Puts a request in line."""

    def step(self) -> list[Translation]:
        """One step of all busy slots; the rows that ended with it."""

    @property
    def is_finished(self) -> bool:
        """Nothing waits and nothing runs."""

    @property
    def free_slots(self) -> int:
        """Requests that would run at the next step."""


@dataclass(frozen=True)
class Occupancy:
    """Slots that held a row, summed over the steps so far, and slots there were."""

    busy: int = 0
    slots: int = 0

    def since(self, earlier: Occupancy) -> float:
        """Share of slots that were busy since then; 0 when no step was taken."""
        slots = self.slots - earlier.slots
        return (self.busy - earlier.busy) / slots if slots else 0.0


@dataclass(order=True)
class _Ticket:
    shard_order: int
    number: int
    request: TranslationRequest = field(compare=False)
    alone: bool = field(compare=False)
    on_start: Callable[[], None] = field(compare=False)
    future: Future[Translation] = field(compare=False, default_factory=Future)


class EngineThread:
    """Runs an engine in a thread of its own.

    Args:
        make_engine: builds the engine, in that thread; called again after a step raised.
        slots: of the engine.
        is_beyond_repair: asked after a step raised; when true the process ends at once, and Ray
            starts a fresh one: a dead CUDA context never comes back in the same process.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        slots: int,
        is_beyond_repair: Callable[[], bool] = lambda: False,
    ) -> None:
        self._make_engine = make_engine
        self._slots = slots
        self._is_beyond_repair = is_beyond_repair
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._alone: list[_Ticket] = []
        self._in_flight: list[_Ticket] = []
        self._numbers = itertools.count()
        self._occupancy = Occupancy()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: TranslationRequest,
        shard_order: int,
        *,
        alone: bool = False,
        on_start: Callable[[], None] = lambda: None,
    ) -> Future[Translation]:
        """Puts a request in line.

        Args:
            request: its id need not be unique.
            shard_order: requests of lower ones go first.
            alone: with no other row in flight.
            on_start: called in the engine's thread right before the row enters a slot; again when
            it has to enter a second time.

        Returns:
            The translation to come. A row whose step raised is a failed translation with reason
            engine_error or out_of_memory; the future itself only raises when the thread was closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine thread is closed")
            ticket = _Ticket(shard_order, next(self._numbers), request, alone, on_start)
            heapq.heappush(self._alone if alone else self._waiting, ticket)
            self._changed.notify_all()
            return ticket.future

    @property
    def occupancy(self) -> Occupancy:
        """So far."""
        with self._changed:
            return self._occupancy

    def close(self) -> None:
        """Ends the thread after the present step; rows not translated raise RuntimeError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        engine: Engine | None = None
        while True:
            with self._changed:
                while not (self._waiting or self._alone or self._in_flight or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                entering = self._next_tickets()
                self._in_flight += entering
            try:
                for ticket in entering:
                    ticket.on_start()
                engine = engine or self._make_engine()
                for ticket in entering:
                    engine.add(ticket.request)
                ended = engine.step()
            except Exception as error:  # any error of any network; the row at fault is found below
                engine = None
                self._recover(error)
                continue
            self._finish(ended)
        for ticket in [*self._in_flight, *self._waiting, *self._alone]:
            ticket.future.set_exception(RuntimeError("the engine thread was closed"))

    def _next_tickets(self) -> list[_Ticket]:
        if self._alone:
            # No refill until the slots are empty; then this one row has them to itself.
            return [] if self._in_flight else [heapq.heappop(self._alone)]
        if any(ticket.alone for ticket in self._in_flight):
            return []
        free = min(self._slots - len(self._in_flight), len(self._waiting))
        return [heapq.heappop(self._waiting) for _ in range(free)]

    def _finish(self, ended: list[Translation]) -> None:
        done = []
        with self._changed:
            self._occupancy = Occupancy(
                self._occupancy.busy + len(self._in_flight), self._occupancy.slots + self._slots
            )
            for translation in ended:
                # A shard that Ray runs twice at once brings ids twice; their rows are the same.
                ticket = next(t for t in self._in_flight if t.request.id == translation.id)
                self._in_flight.remove(ticket)
                done.append((ticket, translation))
        for ticket, translation in done:
            ticket.future.set_result(translation)

    def _recover(self, error: Exception) -> None:
        rows = len(self._in_flight)
        log.warning("engine step raised with %d rows in flight", rows, exc_info=error)
        if self._is_beyond_repair():
            log.error("the device does not answer any more; ending this process")
            os._exit(1)
        with self._changed:
            suspects, self._in_flight = self._in_flight, []
            if len(suspects) > 1:
                for ticket in suspects:
                    ticket.alone = True
                    heapq.heappush(self._alone, ticket)
                return
        for ticket in suspects:
            ticket.future.set_result(
                Translation(
                    id=ticket.request.id,
                    seed=ticket.request.seed,
                    status="failed",
                    picture=None,
                    reason=_reason(error),
                    error=f"{type(error).__name__}: {error}",
                )
            )


def _reason(error: Exception) -> str:
    # By name: this file knows no torch, whose OutOfMemoryError is not a MemoryError.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return "out_of_memory" if out_of_memory else "engine_error"
