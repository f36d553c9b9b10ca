"""Attempts at a shard: how often it was started, and which row was alone when a process died.

A row that kills its process leaves no exception, and Ray would run its shard for ever. So each
attempt is noted in the shard's stats file. A shard that was started `CAREFUL_AFTER` times without
getting further is run carefully: one row at a time, each named before it starts. A row that
`BLAMED_AFTER` processes died of then fails, and the rest of the shard goes on. Where every attempt
keeps more rows than the one before, as on nodes that are taken away often, no row is suspected.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

from dstc.store import retries, storage
from dstc.store.run_folder import RunFolder

CAREFUL_AFTER = 2
BLAMED_AFTER = 2


class Attempt:
    """One attempt at a shard; making it notes it.

    Args:
        run: whose shard. shard: its number.

    Attributes:
        number: 1 for the first attempt since the shard was last finished.
        ordinal: 1 for the first attempt of all; a part says which of them wrote it.
        fruitless: those of them since one kept more rows than it found.
        is_rerun: an attempt before this one did not end.
        is_careful: rows are to be run one at a time.
    """

    def __init__(self, run: RunFolder, shard: int) -> None:
        self._uri = run.stats(shard)
        self._lock = threading.Lock()
        earlier = _read(self._uri)
        self.is_rerun = earlier.get("state") == "running"
        self.number = int(earlier.get("attempt", 0)) + 1 if self.is_rerun else 1
        self.fruitless = int(earlier.get("fruitless", 0)) + 1 if self.is_rerun else 1
        self.ordinal = int(earlier.get("ordinal", earlier.get("attempt", 0))) + 1
        self._kept = int(earlier.get("kept", 0)) if self.is_rerun else 0
        self._deaths = Counter[str](earlier.get("deaths", {}) if self.is_rerun else {})
        if self.is_rerun and (alone := earlier.get("alone")):
            self._deaths[alone] += 1
        self._write(None)

    @property
    def is_careful(self) -> bool:
        """Rows are to be run one at a time, each named by `start_alone`."""
        return self.fruitless > CAREFUL_AFTER

    def follow(self, ordinal: int) -> None:
        """Another attempt wrote the part that is there; this one comes after it."""
        self.ordinal = max(self.ordinal, ordinal + 1)

    def keep(self, rows: int) -> None:
        """So many rows were kept from attempts before; more than last time are progress."""
        if rows > self._kept:
            self._kept, self.fruitless = rows, 1
            self._write(None)

    def is_blamed(self, row_id: str) -> bool:
        """Enough processes died while they ran only this row."""
        return self._deaths[row_id] >= BLAMED_AFTER

    def start_alone(self, row_id: str) -> None:
        """Notes that this row is now the only one this process runs."""
        self._write(row_id)

    def end_alone(self) -> None:
        """Notes that the row alone has ended, and the process lives."""
        self._write(None)

    def finish(self, stats: dict[str, Any]) -> None:
        """Writes the timings of the finished shard in place of the notes."""
        with self._lock:
            _write(self._uri, {"state": "done", "attempt": self.number, **stats})

    def _write(self, alone: str | None) -> None:
        with self._lock:
            notes = {
                "state": "running",
                "attempt": self.number,
                "ordinal": self.ordinal,
                "fruitless": self.fruitless,
                "kept": self._kept,
                "deaths": self._deaths,
                "alone": alone,
            }
            _write(self._uri, notes)


def note_unfinished(run: RunFolder, shard: int, ordinal: int, kept: int) -> None:
    """Notes that a shard has to run again, and that so many rows so far are kept for it.

    Args:
        ordinal: of the attempt that made them.
    """
    notes = {"state": "running", "attempt": 0, "ordinal": ordinal, "fruitless": 0, "kept": kept}
    _write(run.stats(shard), notes)


def _read(uri: str) -> dict[str, Any]:
    try:
        found = json.loads(storage.read_bytes(uri, retries.STEADY))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(uri: str, values: dict[str, Any]) -> None:
    with storage.writing_output(uri):
        storage.write_bytes(uri, json.dumps(values, indent=1).encode() + b"\n", retries.STEADY)
