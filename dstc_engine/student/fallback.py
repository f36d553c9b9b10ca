"""The student first, guidance for what it cannot do: one engine out of two.

The guided engine is made at the first row that needs it, so that a job of known looks neither loads
the prior nor holds its memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.names import Fallback

# Rows in line for guidance, for each of its slots, beyond which no new ones are taken.
_IN_LINE = 2


class SlotEngine(Protocol):
    """The verbs that the guided engine is used by; see `dstc_engine.engine.Engine`."""

    def add(self, request: TranslationRequest) -> None: ...
    def step(self) -> list[Translation]: ...
    def is_device_dead(self) -> bool: ...
    @property
    def free_slots(self) -> int: ...
    @property
    def is_finished(self) -> bool: ...
    @property
    def rows_underway(self) -> float: ...


class FallbackEngine:
    """Translates rows by a student, and those whose image it cannot vouch for by guidance.

    Args:
        student: its engine. make_guided: called once, at the first row that needs guidance.
        fallback: what becomes of an image that fails a gate. "guided": the row is translated by
            guidance, and so are rows of looks that the student does not know. "flag": the image is
            used, and its failed gates are told. "none": it is used as any other; give a student's
            engine that does not judge. With the last two a row of an unknown look fails.

    Example:
        engine = FallbackEngine(StudentEngine(student), lambda: Engine(models, preset, slots=8))
    """

    def __init__(
        self,
        student: StudentEngine,
        make_guided: Callable[[], SlotEngine],
        fallback: Fallback = "guided",
    ) -> None:
        self._student = student
        self._make_guided = make_guided
        self._fallback = fallback
        self._guided: SlotEngine | None = None
        self._slots = 0
        self._requests: dict[str, TranslationRequest] = {}
        self._in_line: deque[TranslationRequest] = deque()

    def add(self, request: TranslationRequest) -> None:
        """Puts a request in line for the student."""
        if self._fallback == "guided":
            self._requests[request.id] = request
        self._student.add(request)

    @property
    def free_slots(self) -> int:
        """Requests that could be added; none while many rows are in line for guidance."""
        if len(self._in_line) > _IN_LINE * self._slots:
            return 0
        return self._student.free_slots

    @property
    def is_finished(self) -> bool:
        """Nothing waits and nothing runs, in either."""
        guided = self._guided
        return (
            self._student.is_finished and not self._in_line and (not guided or guided.is_finished)
        )

    @property
    def rows_underway(self) -> float:
        """Of the guided engine: the student's rows are through in one step."""
        return self._guided.rows_underway if self._guided else 0.0

    def is_device_dead(self) -> bool:
        """Whether the GPU refuses even the smallest work."""
        return self._student.is_device_dead()

    def step(self) -> list[Translation]:
        """A batch of the student's, and a step of guidance; the rows that ended."""
        ended = [] if self._student.is_finished else self._judge(self._student.step())
        return ended + self._guide()

    def _judge(self, translations: list[Translation]) -> list[Translation]:
        if self._fallback != "guided":
            return translations
        used = []
        for each in translations:
            request = self._requests.pop(each.id)
            if each.status == "done" and not each.failed_gates:
                used.append(each)
            else:
                self._in_line.append(request)
        return used

    def _guide(self) -> list[Translation]:
        if self._in_line and self._guided is None:
            self._guided = self._make_guided()
            self._slots = self._guided.free_slots
        if self._guided is None:
            return []
        while self._in_line and self._guided.free_slots:
            self._guided.add(self._in_line.popleft())
        if self._guided.is_finished:
            return []
        return [_changed(each, made_by="guided") for each in self._guided.step()]


def _changed(translation: Translation, **changes: Any) -> Translation:
    """The same translation with other fields; its image is finished by whoever reads it."""
    return replace(translation, image=vars(translation)["image"], **changes)
