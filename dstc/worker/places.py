"""Places among the rows that wait in memory, decoded, for a slot."""

from __future__ import annotations

import threading


class Place:
    """A place; left once, however often it is asked, and only where it was taken.

    Args:
        places: how many there are.
    """

    def __init__(self, places: threading.Semaphore) -> None:
        self._places = places
        self._is_mine = threading.Lock()

    def take(self) -> None:
        """Waits for one."""
        self._places.acquire()
        self._is_mine.acquire()

    def leave(self) -> None:
        """Gives it back, from any thread."""
        try:
            self._is_mine.release()
        except RuntimeError:
            return  # not taken, or left already
        self._places.release()
