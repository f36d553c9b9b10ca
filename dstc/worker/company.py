"""Who is at work in a process: rows of all shards together, or one shard's rows by themselves.

A row may only be blamed for the death of its process when nothing else ran there: a decoder can die
in any thread, of any shard.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Company:
    """Rows that are fetched, translated or written in this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rows = 0
        self._wanting_to_be_alone = 0
        self._is_taken = False

    def join(self) -> None:
        """Adds a row; waits while a shard is alone, or wants to be."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_taken or self._wanting_to_be_alone))
            self._rows += 1

    def leave(self) -> None:
        """A row that joined has ended."""
        with self._changed:
            self._rows -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No row is in company for the block; those that are there end first."""
        with self._changed:
            self._wanting_to_be_alone += 1
            self._changed.wait_for(lambda: not (self._is_taken or self._rows))
            self._wanting_to_be_alone -= 1
            self._is_taken = True
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()
