"""Counts the rows that an actor translated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dstc.worker.engine_thread import Output
from dstc.worker.row_count import Work


class RowsTranslated:
    """How many rows of an actor ended after their translation, told in the order they ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0

    @contextmanager
    def counted(self, was_translated: bool) -> Iterator[None]:
        """Around what is told of a row that has ended; one row at a time."""
        with self._lock:
            self._rows += was_translated
            yield

    def work(self, output: Output) -> Work:
        """What the actor has done, by its engine's count."""
        rows = self._rows
        return Work(
            rows=rows,
            underway=max(0.0, output.rows - rows),
            done=output.rows - output.first,
            seconds=output.seconds,
        )
