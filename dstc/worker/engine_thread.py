"""The thread that steps the engine; other threads hand it requests and wait.

Rows wait in order of their shard, so that the older shard ends first and the newer one only fills
slots that would be empty. When a step raises, the rows in flight are run again one at a time: the
one at fault fails alone, and its neighbours get the images they would have had. When memory ends
instead, slots are halved and the rows run again together.

Every future ends. An exception of any kind that an engine raises is that of its rows; one that
leaves the thread ends the process, since nobody else would tell those who wait. A row that is in
its slot beyond its deadline fails, and the others run again in a new engine.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from dstc.engines.spec import Engine
from dstc.text import describe
from dstc.worker.timed_threads import TIMED_OUT
from dstc_engine.device_memory import is_out_of_memory
from dstc_engine.request import Translation, TranslationRequest

log = logging.getLogger(__name__)

# An engine that has nothing to do for so long, and rows that wait for it, has lost them.
_IDLE_S = 60.0


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
    entered: float = field(compare=False, default=0.0)

    def fail(self, reason: str, error: str) -> None:
        """Ends it as a failed translation."""
        self.future.set_result(
            Translation(
                id=self.request.id,
                seed=self.request.seed,
                status="failed",
                image=None,
                reason=reason,
                error=error,
            )
        )

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
        deadline_s: that a row may be in its slot.
    """

    def __init__(
        self,
        make_engine: Callable[[int], Engine],
        slots: int,
        on_step: Callable[[float, int, int], None] = lambda seconds, busy, slots: None,
        on_rebuild: Callable[[str], None] = lambda reason: None,
        deadline_s: float = math.inf,
    ) -> None:
        self._make_engine = make_engine
        self._slots = slots
        self._on_step = on_step
        self._on_rebuild = on_rebuild
        self._deadline_s = deadline_s
        self._called: float | None = None
        self._idle_since: float | None = None
        self._has_strays = False
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
            engine_error or out_of_memory, one beyond its deadline one with timed_out; the future
            itself only raises what `on_start` raised, or when the thread was closed.
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

    def rows_in_the_way(self) -> list[tuple[int, str]]:
        """Rows in slots, as (shard_order, id), of a call of the engine that does not return.

        Empty while the present call, if there is one, is within the deadline of a row.
        """
        with self._changed:
            if self._called is None or time.monotonic() - self._called <= self._deadline_s:
                return []
            return sorted({(t.shard_order, t.request.id) for t in self._in_flight})

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            log.critical("the engine's thread died; ending this process", exc_info=True)
            os._exit(1)
        finally:
            with self._changed:
                self._closed = True
                left = [*self._in_flight, *self._waiting, *self._alone]
            for ticket in left:
                if not ticket.future.done():
                    ticket.future.set_exception(RuntimeError("the engine thread was closed"))

    def _serve(self) -> None:
        engine: Engine | None = None
        while (entering := self._wait_for_rows()) is not None:
            entering = self._enter(entering)
            if not self._in_flight:
                continue
            try:
                with self._calling():
                    engine = engine or self._make_engine(self._slots)
                    for ticket in entering:
                        engine.add(ticket.request)
                    start = time.monotonic()
                    ended = engine.step()
                    seconds = time.monotonic() - start
                    underway = float(getattr(engine, "rows_underway", 0.0))
                    is_idle = bool(getattr(engine, "is_finished", False))
                    pairs = self._pair(ended)
            except BaseException as error:  # of any network; the row at fault is found below
                if engine is not None and self._is_device_dead(engine):
                    log.error("the device does not answer any more; ending this process")
                    os._exit(1)
                engine = None  # before the next one is built: two may not fit into memory
                self._recover(error)
                continue
            _quietly(self._on_step, seconds, len(self._in_flight), self._slots)
            self._finish(pairs, underway)
            if self._has_lost_rows(is_idle):
                engine = None
                self._recover(RuntimeError("the engine let go of the row without a translation"))
            elif self._fail_overdue():
                engine = None  # it holds on to those rows

    def _wait_for_rows(self) -> list[_Ticket] | None:
        """Rows to enter now, if any, while there are rows at all; None to end the thread."""
        with self._changed:
            while not (self._waiting or self._alone or self._in_flight or self._closed):
                self._changed.wait()
            return None if self._closed else self._next_tickets()

    def _enter(self, tickets: list[_Ticket]) -> list[_Ticket]:
        """Tells those who wait that their rows start; rows whose `on_start` raised end by that."""
        entered = []
        for ticket in tickets:
            try:
                ticket.on_start()
            except BaseException as error:
                with self._changed:
                    self._rows_ended += ticket.rows
                ticket.future.set_exception(error)
                continue
            ticket.entered = time.monotonic()
            entered.append(ticket)
        with self._changed:
            self._in_flight += entered
        return entered

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        with self._changed:
            self._called = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._called = None

    def _next_tickets(self) -> list[_Ticket]:
        if self._alone:
            # No refill until the slots are empty; then this one row has them to itself.
            return [] if self._in_flight else [heapq.heappop(self._alone)]
        if any(ticket.alone for ticket in self._in_flight):
            return []
        free = min(self._slots - len(self._in_flight), len(self._waiting))
        return [heapq.heappop(self._waiting) for _ in range(free)]

    def _pair(self, ended: Sequence[Translation]) -> list[tuple[_Ticket, Translation]]:
        """Translations with the tickets that wait for them.

        Samples of a row share its id. A shard that Ray runs twice at once brings both twice; their
        rows are the same. One that nobody waits for is dropped: those who wait are not to suffer.
        """
        pairs = []
        waiting = list(self._in_flight)
        for translation in ended:
            ticket = next((t for t in waiting if t.makes(translation)), None)
            if ticket is None:
                log.warning("nobody waits for %r, seed %s", translation.id, translation.seed)
                self._has_strays = True
                continue
            waiting.remove(ticket)
            pairs.append((ticket, translation))
        return pairs

    def _finish(self, pairs: Sequence[tuple[_Ticket, Translation]], underway: float) -> None:
        with self._changed:
            self._occupancy = Occupancy(
                self._occupancy.busy + len(self._in_flight), self._occupancy.slots + self._slots
            )
            for ticket, _ in pairs:
                self._in_flight.remove(ticket)
                self._rows_ended += ticket.rows
            # The engine counts samples as rows, too.
            rows = sum(ticket.rows for ticket in self._in_flight)
            self._rows_underway = underway * rows / len(self._in_flight) if rows else 0.0
            if self._first_step_ended is None:
                self._first_step_ended = time.monotonic()
                self._rows_first = self._rows_ended + self._rows_underway
        for ticket, translation in pairs:
            ticket.future.set_result(translation)

    def _has_lost_rows(self, is_idle: bool) -> bool:
        """Whether rows are in flight that the engine does not know of any more."""
        if not (is_idle and self._in_flight):
            self._idle_since = None
            self._has_strays &= bool(self._in_flight)
            return False
        self._idle_since = self._idle_since or time.monotonic()
        # Where a translation came under a name that nobody waits for, it was one of theirs.
        return self._has_strays or time.monotonic() - self._idle_since > _IDLE_S

    def _fail_overdue(self) -> bool:
        """Fails rows beyond their deadline, puts the others in line again; whether there were any.

        Every time at least one row ends, so this comes to an end.
        """
        end = time.monotonic() - self._deadline_s
        overdue = [ticket for ticket in self._in_flight if ticket.entered < end]
        if not overdue:
            return False
        with self._changed:
            others = [ticket for ticket in self._in_flight if ticket.entered >= end]
            self._in_flight = []
            self._rows_underway = 0.0
            self._rows_ended += sum(ticket.rows for ticket in overdue)
            self._line_up(others)
        for ticket in overdue:
            seconds = time.monotonic() - ticket.entered
            log.warning("row %r is given up after %.0f s", ticket.request.id, seconds)
            ticket.fail(
                TIMED_OUT,
                f"still not translated after {seconds:.0f} s in its slot; expected at most "
                f"{self._deadline_s:.0f} (--row-deadline)",
            )
        return True

    def _line_up(self, tickets: Sequence[_Ticket]) -> None:
        for ticket in tickets:
            heapq.heappush(self._alone if ticket.alone else self._waiting, ticket)

    def _recover(self, error: BaseException) -> None:
        rows = len(self._in_flight)
        self._idle_since, self._has_strays = None, False
        reason = "out_of_memory" if is_out_of_memory(error) else "engine_error"
        _quietly(self._on_rebuild, reason)
        log.warning("engine step raised with %d rows in flight", rows, exc_info=error)
        with self._changed:
            suspects, self._in_flight = self._in_flight, []
            self._rows_underway = 0.0
            if reason == "out_of_memory" and self._slots > 1:
                self._slots //= 2
                log.warning("out of memory: going on with %d slots", self._slots)
                self._line_up(suspects)
                return
            if len(suspects) > 1:
                for ticket in suspects:
                    ticket.alone = True
                self._line_up(suspects)
                return
            self._rows_ended += sum(ticket.rows for ticket in suspects)
        for ticket in suspects:
            ticket.fail(reason, describe(error))

    def _is_device_dead(self, engine: Engine) -> bool:
        try:
            with self._calling():
                return engine.is_device_dead()
        except BaseException:
            # A device that cannot even be asked: going on would fail row after row.
            log.exception("the engine does not say whether its device is dead")
            return True


def _quietly(tell: Callable[..., object], *arguments: object) -> None:
    """Calls an observer, whose mistakes are no fault of the rows."""
    try:
        tell(*arguments)
    except BaseException:
        log.exception("an observer of the engine raised")
