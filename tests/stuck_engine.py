"""A fake engine in which one row stands still until a gate opens, and one that notes its rows."""

from __future__ import annotations

import threading
import time

from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation, TranslationRequest


class StuckEngine(FakeEngine):
    """One row does not move before the gate opens, whichever entered before it.

    Args:
        slots: of the engine. row_id: of the row. gate: opens when it is set.
    """

    def __init__(self, slots: int, row_id: str, gate: threading.Event) -> None:
        super().__init__(TINY64, slots)
        self._row_id, self._gate = row_id, gate
        self._stuck: list[TranslationRequest] = []

    def add(self, request: TranslationRequest) -> None:
        if request.id == self._row_id and not self._gate.is_set():
            self._stuck.append(request)
        else:
            super().add(request)

    def step(self) -> list[Translation]:
        time.sleep(0.002)
        if self._stuck and self._gate.is_set():
            super().add(self._stuck.pop())
        return super().step()


class NotingEngine(FakeEngine):
    """Notes the ids of its rows in `seen`."""

    def __init__(self, slots: int, seen: list[str]) -> None:
        super().__init__(TINY64, slots)
        self._seen = seen

    def add(self, request: TranslationRequest) -> None:
        self._seen.append(request.id)
        super().add(request)
