"""The thread that steps the engine; other threads hand it requests and wait.

Rows wait in order of their shard, so that the older shard ends first and the newer one only fills
slots that would be empty. When a step raises, the rows in flight are run again one at a time: the
one at fault fails alone, and its neighbours get the images they would have had. When memory ends
instead, slots are halved and the rows run again together.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from dstc.engines.spec import Engine
from dstc_engine.request import Translation, TranslationRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Occupancy:
    """Slots that held a row, summed over the steps so far, and slots there were."""

    busy: int = 0
    slots: int = 0

    def since(self, earlier: Occupancy) -> float:
        """Share of slots that were busy since then; 0 when no step was taken."""
        slots = self.slots - earlier.slots
        return (self.busy - earlier.busy) / slots if slots else 0.0


@dataclass(frozen=True)
class Output:
    """Work that an engine has done so far, in rows.

    Attributes:
        rows: that have ended, and those in slots by the share of their steps that is done.
        first: what of that the first step did, which also compiles and fills caches: it says
            nothing of how fast the others are.
        seconds: since the first step ended; 0 before.
    """

    rows: float = 0.0
    first: float = 0.0
    seconds: float = 0.0


@dataclass(order=True)
class _Ticket:
    shard_order: int
    number: int
    request: TranslationRequest = field(compare=False)
    alone: bool = field(compare=False)
    on_start: Callable[[], None] = field(compare=False)
    rows: float = field(compare=False)
    future: Future[Translation] = field(compare=False, default_factory=Future)

    def makes(self, translation: Translation) -> bool:
        """Whether this is what the ticket waits for, or as good."""
        return (self.request.id, self.request.seed) == (translation.id, translation.seed)


class EngineThread:
    """Runs an engine in a thread of its own.

    When a step raises and the engine's device is dead, the process ends at once, and Ray starts a
    fresh one: a dead CUDA context never comes back in the same process.

    Args:
        make_engine: builds an engine of so many slots, in that thread; called again after a step
            raised.
        slots: of the engine.
        on_step: called in that thread after each step, with its seconds, the slots that held a row,
            and the slots there are.
        on_rebuild: called after a step raised, with "out_of_memory" or "engine_error".
    """

    def __init__(
        self,
        make_engine: Callable[[int], Engine],
        slots: int,
        on_step: Callable[[float, int, int], None] = lambda seconds, busy, slots: None,
        on_rebuild: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._make_engine = make_engine
        self._slots = slots
        self._on_step = on_step
        self._on_rebuild = on_rebuild
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._alone: list[_Ticket] = []
        self._in_flight: list[_Ticket] = []
        self._numbers = itertools.count()
        self._occupancy = Occupancy()
        self._rows_ended = self._rows_underway = self._rows_first = 0.0
        self._first_step_ended: float | None = None
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
        rows: float = 1.0,
    ) -> Future[Translation]:
        """Puts a request in line.

        Args:
            request: neither its id nor id and seed together need be unique.
            shard_order: requests of lower ones go first.
            alone: with no other row in flight.
            on_start: called in the engine's thread right before the row enters a slot; again when
            it has to enter a second time.
            rows: what it counts in `output`; a sample is a part of its row.

        Returns:
            The translation to come. A row whose step raised is a failed translation with reason
            engine_error or out_of_memory; the future itself only raises when the thread was closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine thread is closed")
            ticket = _Ticket(shard_order, next(self._numbers), request, alone, on_start, rows)
            heapq.heappush(self._alone if alone else self._waiting, ticket)
            self._changed.notify_all()
            return ticket.future

    @property
    def slots(self) -> int:
        """Slots of the engine: as given, or fewer after it ran out of memory."""
        with self._changed:
            return self._slots

    @property
    def occupancy(self) -> Occupancy:
        """So far."""
        with self._changed:
            return self._occupancy

    @property
    def output(self) -> Output:
        """So far."""
        with self._changed:
            first = self._first_step_ended
            return Output(
                rows=self._rows_ended + self._rows_underway,
                first=self._rows_first,
                seconds=0.0 if first is None else time.monotonic() - first,
            )

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
                engine = engine or self._make_engine(self._slots)
                for ticket in entering:
                    engine.add(ticket.request)
                start = time.monotonic()
                ended = engine.step()
                self._on_step(time.monotonic() - start, len(self._in_flight), self._slots)
                underway = getattr(engine, "rows_underway", 0.0)
            except Exception as error:  # any error of any network; the row at fault is found below
                if engine is not None and engine.is_device_dead():
                    log.error("the device does not answer any more; ending this process")
                    os._exit(1)
                engine = None  # before the next one is built: two may not fit into memory
                self._recover(error)
                continue
            self._finish(ended, underway)
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

    def _finish(self, ended: list[Translation], underway: float) -> None:
        done = []
        with self._changed:
            self._occupancy = Occupancy(
                self._occupancy.busy + len(self._in_flight), self._occupancy.slots + self._slots
            )
            for translation in ended:
                # Samples of a row share its id. A shard that Ray runs twice at once brings both
                # twice; their rows are the same.
                ticket = next(t for t in self._in_flight if t.makes(translation))
                self._in_flight.remove(ticket)
                self._rows_ended += ticket.rows
                done.append((ticket, translation))
            # The engine counts samples as rows, too.
            rows = sum(ticket.rows for ticket in self._in_flight)
            self._rows_underway = underway * rows / len(self._in_flight) if rows else 0.0
            if self._first_step_ended is None:
                self._first_step_ended = time.monotonic()
                self._rows_first = self._rows_ended + self._rows_underway
        for ticket, translation in done:
            ticket.future.set_result(translation)

    def _recover(self, error: Exception) -> None:
        rows = len(self._in_flight)
        reason = "out_of_memory" if _is_out_of_memory(error) else "engine_error"
        self._on_rebuild(reason)
        log.warning("engine step raised with %d rows in flight", rows, exc_info=error)
        with self._changed:
            suspects, self._in_flight = self._in_flight, []
            self._rows_underway = 0.0
            if reason == "out_of_memory" and self._slots > 1:
                self._slots //= 2
                log.warning("out of memory: going on with %d slots", self._slots)
                for ticket in suspects:
                    heapq.heappush(self._alone if ticket.alone else self._waiting, ticket)
                return
            if len(suspects) > 1:
                for ticket in suspects:
                    ticket.alone = True
                    heapq.heappush(self._alone, ticket)
                return
            self._rows_ended += sum(ticket.rows for ticket in suspects)
        for ticket in suspects:
            ticket.future.set_result(
                Translation(
                    id=ticket.request.id,
                    seed=ticket.request.seed,
                    status="failed",
                    image=None,
                    reason=reason,
                    error=f"{type(error).__name__}: {error}",
                )
            )


def _is_out_of_memory(error: Exception) -> bool:
    # By name: this file knows no torch, whose OutOfMemoryError is not a MemoryError.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
