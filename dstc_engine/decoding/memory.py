"""How much memory decoding may take, over all threads of a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ByteBudget:
    """Bytes that several threads hold together; who finds no room waits, in line.

    ```
    budget = ByteBudget(1 << 30)
    with budget.hold(300 << 20):
        ...
    ```

    Args:
        limit: of all that is held at once. What is larger by itself is held alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        # One waits for room and the others for their turn, or small ones would pass a large one
        # for ever.
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free, and holds them meanwhile."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()
