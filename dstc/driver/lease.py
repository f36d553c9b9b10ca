"""Lease of a run folder: of several drivers started on one OUTPUT, only one works.

Two drivers would lose no row, since parts and images have fixed names, but they would pay for
each row twice. The driver at work renews `lease.json` every few seconds. One that finds a lease
watches it by its own clock: a lease that stays as it is has lost its driver, and is taken over.
Every change of the lease is a compare-and-swap where storage has one, so of several that take over
at once one succeeds, and a driver that was away finds out when it renews.

A driver that cannot renew in time ends itself before others may take over. What it has on its way
to storage then is fenced off by its epoch: one more than that of the driver before, noted in
job.json and in every part (`dstc.store.fencing`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dstc.errors import RunFolderError, SettingsError
from dstc.store import conditional, process, storage, urls
from dstc.store.conditional import Versioned
from dstc.text import redact

log = logging.getLogger(__name__)

RENEW_EVERY_S = 10.0
# A storage that is away for a minute may cost nobody the run: the driver gives up at three quarters
# of this, and uses the rest to end.
EXPIRES_AFTER_S = 120.0
# Of a lease that does not say: drivers of before renewed as often.
_EXPIRES_AFTER_S_UNSAID = 35.0
_GIVES_UP_AT = 0.75
_SHORTEST_S, _LONGEST_S = 30, 3600
_CHECK_EVERY_S = 0.5


def expires_after() -> float:
    """Seconds after which a silent driver may be followed: `DSTC_LEASE_S`, or 120.

    Raises:
        SettingsError: the variable is no number of seconds from 30 to 3600.
    """
    given = os.environ.get("DSTC_LEASE_S")
    if not given:
        return EXPIRES_AFTER_S
    with contextlib.suppress(ValueError):
        if _SHORTEST_S <= float(given) <= _LONGEST_S:
            return float(given)
    raise SettingsError(
        f"DSTC_LEASE_S: found {given!r}; expected seconds from {_SHORTEST_S} to {_LONGEST_S}"
    )


def _now() -> float:
    """Seconds, those in which the machine was suspended included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass
class Lease:
    """The right to work on a run folder.

    Args:
        uri: of the lease file; job.json lies beside it. shown: the folder as messages name it.
        now: clock of this driver, for its own end.

    Attributes:
        epoch: number of this driver among those that took the run; 0 before `take`.
        is_lost: another driver has taken it over, or may do so from now on.
        why_lost: that, as a clause.
        has_conditions: storage refuses a write where another came before.

    Example:
        >>> lease = Lease("runs/one/lease.json", "runs/one")
        >>> lease.take()
        >>> with lease.kept(on_lost=interrupt):
        ...     work(lease.epoch)
    """

    uri: str
    shown: str
    now: Callable[[], float] = _now
    epoch: int = 0
    is_lost: bool = False
    why_lost: str = ""
    has_conditions: bool = True
    _owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    _renewals: int = 0
    _version: str = ""
    _gives_up: float = 0.0

    def take(
        self,
        on_wait: Callable[[str], None] = lambda holder: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the lease; waits for one that may have lost its driver to run out.

        Args:
            on_wait: called once with who holds the lease, when it has to be watched.
            sleep, clock: of the system.

        Raises:
            RunFolderError: another driver holds it and is alive, or has just taken it.
            OSError: storage does not answer.
        """
        first = self._read()
        if first is not None and not _is_dead(record := _record(first)):
            on_wait(_holder(record))
            first = self._watched(first, sleep, clock)
        self._swap_in(first, sleep)

    def is_ours(self) -> bool:
        """Whether the lease still names this driver.

        Raises:
            OSError: storage does not answer.
        """
        found = self._read()
        return found is not None and self._is_own(found)

    def renew(self) -> bool:
        """Shows that this driver is alive.

        Returns:
            False when another driver has taken the lease over, thinking this one dead, or when it
            is too late to renew: `why_lost` says so.

        Raises:
            OSError: storage does not answer.
        """
        if self._is_late():
            return False
        asked = self.now()
        self._renewals += 1
        while (version := conditional.swap(self.uri, self._content(), self._version)) is None:
            found = self._read()
            if found is None or not self._is_own(found):
                by = f" ({_holder(_record(found))})" if found else ""
                self._lose(f"another driver{by} has taken over, since this one was away too long")
                return False
            self._version = found.version  # of a renewal whose answer was lost
        self._version, self._gives_up = version, asked + _GIVES_UP_AT * expires_after()
        return True

    @contextlib.contextmanager
    def kept(self, on_lost: Callable[[], None]) -> Iterator[None]:
        """Renews the lease from a thread while the block runs, and gives it back at its end.

        Args:
            on_lost: called in another thread, once, when the lease is lost. That comes before the
                lease expires, even while storage holds a renewal.
        """
        end, tell_once = threading.Event(), threading.Lock()

        def lose() -> None:
            if self.is_lost and tell_once.acquire(blocking=False) and not end.is_set():
                on_lost()

        def renew() -> None:
            while not (end.wait(RENEW_EVERY_S) or self.is_lost):
                try:
                    self.renew()
                except OSError as error:
                    log.warning("lease not renewed: %s", redact(str(error)))
                lose()
            end.wait()
            self.release()  # also where this renewal was late, and has brought the lease back

        def watch() -> None:
            while not (end.wait(_CHECK_EVERY_S) or self._is_late()):
                pass
            lose()

        renewing = threading.Thread(target=renew, name="lease", daemon=True)
        watching = threading.Thread(target=watch, name="lease-clock", daemon=True)
        renewing.start()
        watching.start()
        try:
            yield
        finally:
            end.set()
            renewing.join(10)  # a storage that stalls may not hold a driver that was told to end

    def release(self) -> None:
        """Gives the lease back; whatever goes wrong, it runs out by itself."""
        try:
            # Looked at again, since a renewal that storage was late with may bring it back.
            for _ in range(3):
                found = self._read()
                if found is None or not self._is_own(found):
                    return
                conditional.remove(self.uri, found.version)
        except OSError as error:
            log.warning("lease not given back: %s", redact(str(error)))

    def _watched(
        self, first: Versioned, sleep: Callable[[float], None], clock: Callable[[], float]
    ) -> Versioned | None:
        """The lease once it may be taken: it was given back, or nobody renewed it."""
        end = clock() + _patience_with(_record(first))
        while clock() < end:
            sleep(1.0)
            found = self._read()
            if found is None:
                return None
            if found.data != first.data:
                raise RunFolderError(
                    f"output {self.shown}: another driver ({_holder(_record(found))}) is at work "
                    "on it; wait until it ends, or give another output folder"
                )
        return first

    def _swap_in(self, held: Versioned | None, sleep: Callable[[float], None]) -> None:
        """Puts this driver's record in the place of the one that was found."""
        before = _record(held).get("epoch", 0) if held is not None else 0
        noted = self._noted_epoch()
        self.epoch = 1 + max(before if isinstance(before, int) else 0, noted)
        asked, content = self.now(), self._content()
        version = conditional.swap(self.uri, content, held.version if held is not None else None)
        if version is None:
            raise self._taken_by_another()
        self._version, self._gives_up = version, asked + _GIVES_UP_AT * expires_after()
        self.has_conditions = conditional.honors_conditions(self.uri, content)
        if held is not None or not self.has_conditions:
            # Without conditions, of several that write at once the last one has it, as each sees a
            # moment later. Drivers of before there were epochs write without, whatever the storage.
            sleep(1.0)
            if not self.is_ours():
                raise self._taken_by_another()

    def _taken_by_another(self) -> RunFolderError:
        found = self._read()
        holder = _holder(_record(found)) if found is not None else "which has ended by now"
        return RunFolderError(f"output {self.shown}: another driver ({holder}) has just taken it")

    def _noted_epoch(self) -> int:
        """Epoch of the driver that took the run last, by job.json."""
        try:
            record = json.loads(storage.read_bytes(urls.join(urls.parent(self.uri), "job.json")))
            return int(record["epoch"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0  # a new run, or one of before there were epochs

    def _is_late(self) -> bool:
        if not self.is_lost and self._gives_up and self.now() >= self._gives_up:
            self._lose(
                f"the lease was not renewed for {_GIVES_UP_AT * expires_after():.0f} s (storage "
                "did not answer, or this process stood still), and another driver may take over"
            )
        return self.is_lost

    def _lose(self, why: str) -> None:
        self.is_lost, self.why_lost = True, self.why_lost or why

    def _read(self) -> Versioned | None:
        return conditional.read(self.uri)

    def _is_own(self, found: Versioned) -> bool:
        return _record(found).get("owner") == self._owner

    def _content(self) -> bytes:
        pid = os.getpid()
        record = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": pid,
            "boot": process.boot(),
            "namespace": process.namespace(),
            "started": process.started(pid),
            "epoch": self.epoch,
            "expires_after_s": expires_after(),
            "renewals": self._renewals,
        }
        return json.dumps(record, indent=1).encode() + b"\n"


def _record(found: Versioned) -> dict[str, Any]:
    try:
        record = json.loads(found.data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _patience_with(record: dict[str, Any]) -> float:
    """How long the holder may be silent: it counts on the number that it wrote."""
    said = record.get("expires_after_s")
    if isinstance(said, int | float) and 0 < said <= _LONGEST_S:
        return float(said)
    return _EXPIRES_AFTER_S_UNSAID if "owner" in record else expires_after()


def _holder(record: dict[str, Any]) -> str:
    return f"host {record.get('host', '?')}, process {record.get('pid', '?')}"


def _is_dead(record: dict[str, Any]) -> bool:
    """Whether the holder was a process that this one would see, and is no more.

    Its number alone proves nothing: numbers are used again, another machine may have the same name,
    and containers on one machine number their processes each for itself. So boot and PID namespace
    must be the same, and the start of that number another, or none.
    """
    boot, namespace = process.boot(), process.namespace()
    here = {"host": socket.gethostname(), "boot": boot, "namespace": namespace}
    if None in here.values() or any(record.get(name) != value for name, value in here.items()):
        return False
    pid = record.get("pid")
    return isinstance(pid, int) and process.started(pid) != record.get("started")
