"""Tells a function of the caller's how far a run is, about once a second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstc.driver.monitor import Monitor

log = logging.getLogger(__name__)

_EVERY_S = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        rows: of the run. rows_ended: of them, those of earlier commands included.
        rate: rows per second over the last minutes; None before a row of this call has ended.
        seconds_left: at that rate; None before there is one.
    """

    rows: int
    rows_ended: int
    rate: float | None
    seconds_left: float | None


class ProgressCalls:
    """Calls in a thread of its own while its block runs, and once at its end.

    Args:
        on_progress: one that raises is logged and not called again: a display is no reason to lose
            a run.
        rows: of the run. monitor: knows how many have ended.
    """

    def __init__(
        self, on_progress: Callable[[Progress], object], rows: int, monitor: Monitor
    ) -> None:
        self._on_progress, self._rows, self._monitor = on_progress, rows, monitor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call, name="progress", daemon=True)

    def __enter__(self) -> ProgressCalls:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        # One that hangs may not hold the run.
        self._thread.join(10)

    def _call(self) -> None:
        try:
            stopped = False
            while not stopped:
                stopped = self._stop.wait(_EVERY_S)
                pace = self._monitor.pace
                self._on_progress(
                    Progress(self._rows, pace.rows_ended, pace.rate, pace.seconds_left)
                )
        except Exception:
            log.exception("on_progress raised; it is not called again")
