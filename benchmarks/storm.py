"""A run that is disturbed: drivers, actors and the server killed, storage refused, throttled, cut.

Which fault comes when is drawn from a seed. Faults wait for progress, not for a clock, so they are
spread over the whole run however fast the machine is: each comes when a certain number of parts is
there, and at least one more than at the fault before.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process_tree import descendants
from tests.fault_proxy import FaultProxy
from tests.s3_server import S3Server

# One of each ten faults, by what it is called in the table.
ACTOR, DRIVER, SERVER = "actors killed", "drivers killed", "server killed"
REFUSED, THROTTLED, DROPPED = "storage refused", "throttled", "bodies dropped"
RIVAL = "second driver started"
DECK = (ACTOR, ACTOR, ACTOR, DRIVER, DRIVER, SERVER, REFUSED, THROTTLED, DROPPED, RIVAL)
# A driver that stands still, and goes on when another has come and waited for its lease to end.
# 40 s were too few, since the other takes 10 s to start.
FROZEN = "driver frozen for 60 s"
_FROZEN_S, LEASE_S = 60.0, "35"
KINDS = (*dict.fromkeys(DECK), FROZEN)

_DONE = (0, 3)  # exit codes: every row has ended
_LOOK_EVERY_S = 0.2
_PATIENCE_S = 60.0


class SoakError(Exception):
    """A run did not end in time, or ended as none should."""


def faults(number: int, seed: int) -> list[str]:
    """So many faults, each ten of them one deck, shuffled.

    Example:
        >>> sorted(set(faults(10, 0))) == sorted(set(DECK))
        True
    """
    draws = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < number:
        deck = [*DECK, FROZEN] if number > len(DECK) else [*DECK]
        draws.shuffle(deck)
        drawn += deck
    return drawn[:number]


@dataclass
class DisturbedRun:
    """One `dstc translate`, started again whenever it was ended, until every row has ended.

    Args:
        command: arguments of `dstc translate`. output: its key prefix in the bucket.
        client, bucket: to look past the proxy at what is there. shards: that the run has.
        server, proxy: what storage faults are made with. log: file for what drivers say.
        seed: of the faults. number: of faults; 0 for a calm run. minutes: within which it ends.
    """

    command: Sequence[str]
    output: str
    client: Any
    bucket: str
    shards: int
    server: S3Server
    proxy: FaultProxy
    log: Path
    seed: int
    number: int
    minutes: float
    done: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self) -> int:
        """Runs to the end.

        Returns:
            The exit code of the driver that brought it there: 0, or 3 where rows failed.

        Raises:
            SoakError: the time is over; the message ends with what drivers said last.
        """
        self._draws = random.Random(self.seed)
        self._end = time.monotonic() + 60 * self.minutes
        patience = 0.0
        try:
            code = self._run()
            # Those that wait for the lease find a finished run, and end.
            patience = _PATIENCE_S
            return code
        finally:
            self.proxy.pass_through()
            self._end_drivers(patience)

    def parts(self) -> int:
        """Shards that are written; -1 while the server does not answer."""
        try:
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{self.output}/results/part-"
            )
            return sum(len(page.get("Contents", [])) for page in pages)
        except Exception:  # of botocore, in many types
            return -1

    def _run(self) -> int:
        kinds = faults(self.number, self.seed)
        last = max(1, int(0.9 * self.shards))
        at = sorted(self._draws.randrange(last) for _ in kinds)
        self._start()
        fault_at = -1
        for kind, parts in zip(kinds, at, strict=True):
            if (code := self._wait(max(parts, fault_at + 1))) is not None:
                return code
            fault_at = self.parts()
            self._befall(kind)
            self.proxy.forget()
        while (code := self._wait(None)) is None:
            pass
        return code

    def _start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "dstc.cli", "translate", *self.command]
            self.drivers.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _wait(self, parts: int | None) -> int | None:
        """Until so many parts are there, or the run has ended: the exit code, then."""
        while True:
            for driver in [d for d in self.drivers if d.poll() is not None]:
                self.drivers.remove(driver)
                self.exits[driver.returncode] += 1
                if driver.returncode in _DONE:
                    return driver.returncode
            if time.monotonic() > self._end:
                raise SoakError(
                    f"{self.output}: {self.parts()} of {self.shards} shards after "
                    f"{self.minutes:g} minutes, exit codes {dict(self.exits)}, faults "
                    f"{dict(self.done)}; drivers said last:\n{self.log.read_text()[-3000:]}"
                )
            if not self.drivers:
                # As two operators would, who both see that it is gone.
                for _ in range(self._draws.choice((1, 2)) if self.number else 1):
                    self._start()
            if parts is not None and self.parts() >= parts:
                return None
            time.sleep(_LOOK_EVERY_S)

    def _befall(self, kind: str) -> None:
        time.sleep(self._draws.uniform(0, 1))  # somewhere within a shard
        if kind == ACTOR:
            there = self._wait_for_actors()
            if not there:
                return
            self._signal(self._draws.choice(there), signal.SIGKILL)
        elif kind in (DRIVER, FROZEN, RIVAL):
            self._befall_driver(kind)
        elif kind == SERVER:
            self.server.restart(pause_s=self._draws.uniform(0, 3))
        elif kind == REFUSED:
            self.proxy.refuse()
            time.sleep(self._draws.uniform(3, 8))
        elif kind == THROTTLED:
            self.proxy.throttle(0.5)
            time.sleep(self._draws.uniform(3, 8))
        else:
            self.proxy.drop(0.15)
            time.sleep(self._draws.uniform(3, 8))
        self.proxy.pass_through()
        self.done[kind] += 1
        print(f"{self.output}: {kind} ({self.parts()} parts)", file=sys.stderr, flush=True)

    def _befall_driver(self, kind: str) -> None:
        if kind == RIVAL or not self.drivers:
            self._start()
        if kind == RIVAL:
            return
        driver = self._draws.choice(self.drivers)
        if kind == DRIVER:
            self._signal(driver.pid, signal.SIGKILL)
            driver.wait()
            return
        self._signal(driver.pid, signal.SIGSTOP)
        self._start()
        try:
            time.sleep(_FROZEN_S)
        finally:
            self._signal(driver.pid, signal.SIGCONT)

    def _wait_for_actors(self) -> list[int]:
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            if found := actors():
                return found
            time.sleep(_LOOK_EVERY_S)
        return []

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _end_drivers(self, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        for driver in self.drivers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(max(0.0, end - time.monotonic()))
            driver.kill()
            self.exits[driver.wait()] += 1
        self.drivers.clear()


def actors() -> list[int]:
    """Processes of ours in which rows are translated."""
    return sorted(
        pid
        for pid, command in descendants().items()
        if command.startswith("ray::") and "TranslateShard" in command
    )


def alive(drivers: Sequence[subprocess.Popen[bytes]]) -> Iterator[int]:
    """Numbers of those that run."""
    yield from (driver.pid for driver in list(drivers) if driver.poll() is None)
