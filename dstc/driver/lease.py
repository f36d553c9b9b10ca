"""Lease of a run folder: of several drivers started on one OUTPUT, only one works.

Two drivers would lose no row, since parts and images have fixed names, but they would pay for
each row twice. The driver at work renews `lease.json` every few seconds. One that finds a lease
watches it by its own clock: a lease that stays as it is has lost its driver, and is taken over.
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
from pathlib import Path
from typing import Any

from dstc.errors import RunFolderError
from dstc.store import storage
from dstc.text import redact

log = logging.getLogger(__name__)

RENEW_EVERY_S = 10.0
# Three renewals missed, and some for a slow storage.
EXPIRES_AFTER_S = 35.0


@dataclass
class Lease:
    """The right to work on a run folder.

    Args:
        uri: of the lease file. shown: the folder as messages name it.
    """

    uri: str
    shown: str
    _owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    _renewals: int = 0
    is_lost: bool = False
    """Another driver has taken it over, thinking this one dead."""

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
            RunFolderError: another driver holds it and is alive.
            OSError: storage does not answer.
        """
        if storage.create_bytes(self.uri, self._content()):
            return
        first = self._read()
        if first and _is_dead(first):
            self._take_over(first, sleep)
            return
        if first:
            on_wait(_holder(first))
        end = clock() + EXPIRES_AFTER_S
        while clock() < end:
            sleep(1.0)
            found = self._read()
            if found is None:
                break
            if found != first:
                raise RunFolderError(
                    f"output {self.shown}: another driver ({_holder(found)}) is at work on it; "
                    "wait until it ends, or give another output folder"
                )
        self._take_over(first, sleep)

    def is_ours(self) -> bool:
        """Whether the lease still names this driver.

        Raises:
            OSError: storage does not answer.
        """
        found = self._read()
        return found is not None and found.get("owner") == self._owner

    def renew(self) -> bool:
        """Shows that this driver is alive.

        Returns:
            False when another driver has taken the lease over, thinking this one dead.

        Raises:
            OSError: storage does not answer.
        """
        if not self.is_ours():
            return False
        self._renewals += 1
        storage.write_bytes(self.uri, self._content())
        return True

    @contextlib.contextmanager
    def kept(self, on_lost: Callable[[], None]) -> Iterator[None]:
        """Renews the lease from a thread while the block runs, and gives it back at its end.

        Args:
            on_lost: called in that thread, once, when another driver has taken the lease over.
        """
        end, gives_back = threading.Event(), threading.Event()

        def renew() -> None:
            while not end.wait(RENEW_EVERY_S):
                try:
                    self.is_lost = not self.renew()
                except OSError as error:
                    log.warning("lease not renewed: %s", redact(str(error)))
                if self.is_lost:
                    on_lost()
                    return
            if gives_back.is_set():
                self.release()  # this renewal was late, and has brought the lease back

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(10)  # a storage that stalls may not hold a driver that was told to end
            gives_back.set()
            self.release()

    def release(self) -> None:
        """Gives the lease back; whatever goes wrong, it runs out by itself."""
        try:
            # Looked at again, since a renewal that storage was late with may bring it back.
            for _ in range(3):
                if not self.is_ours():
                    return
                storage.remove(self.uri)
        except OSError as error:
            log.warning("lease not given back: %s", redact(str(error)))

    def _take_over(self, held: dict[str, Any] | None, sleep: Callable[[float], None]) -> None:
        # Of several that take over at once the last to write has it, as each sees a moment later.
        if held is not None and (found := self._read()) is not None and found != held:
            raise RunFolderError(
                f"output {self.shown}: another driver ({_holder(found)}) has just taken it"
            )
        storage.write_bytes(self.uri, self._content())
        sleep(1.0)
        if not self.is_ours():
            found = self._read() or {}
            raise RunFolderError(
                f"output {self.shown}: another driver ({_holder(found)}) has just taken it"
            )

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(storage.read_bytes(self.uri))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _content(self) -> bytes:
        pid = os.getpid()
        record = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": pid,
            "boot": _boot(),
            "started": _started(pid),
            "renewals": self._renewals,
        }
        return json.dumps(record, indent=1).encode() + b"\n"


def _holder(record: dict[str, Any]) -> str:
    return f"host {record.get('host', '?')}, process {record.get('pid', '?')}"


def _is_dead(record: dict[str, Any]) -> bool:
    """Whether the holder was a process of this very machine that is no more.

    Its number alone proves nothing: numbers are used again, and another machine may have the same
    name. So the machine's boot must be the same one, and the start of that number another, or none.
    """
    boot = _boot()
    if record.get("host") != socket.gethostname() or boot is None or record.get("boot") != boot:
        return False
    pid = record.get("pid")
    return isinstance(pid, int) and _started(pid) != record.get("started")


def _boot() -> str | None:
    """Names the present run of this machine's kernel, where it is Linux."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _started(pid: int) -> int | None:
    """The clock tick since boot at which a process of this machine started."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        # The command, in brackets, may hold blanks; the start is the 20th field behind it.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return None
