"""A clock for tests of leases, which would otherwise wait for minutes."""

from __future__ import annotations

from collections.abc import Callable

from dstc.driver.lease import Lease


class Clock:
    """Time that only passes while somebody sleeps; `meanwhile` happens in each pause.

    Attributes:
        messages: what a driver that waits was told.
    """

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self.meanwhile = meanwhile
        self.messages: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def take(self, lease: Lease) -> Lease:
        lease.take(on_wait=self.messages.append, sleep=self.sleep, clock=lambda: self.now)
        return lease
