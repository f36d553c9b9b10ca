"""`FakeEngine`: the engine's verbs without networks, for tests of the job and for benchmarks of it.

It is a real implementation: slots are filled, held for a number of steps and refilled, and the
image that comes out depends on the row alone: the content's negative at the preset's size, the
seed in its first pixel.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from dstc_engine.image import fit, unpad
from dstc_engine.presets import Preset
from dstc_engine.request import StepLosses, Translation, TranslationRequest


class FakeEngine:
    """`add`, `step`, `is_finished`, as `engine.Engine` has them.

    Args:
        preset: its image_size is the size of what comes out.
        slots: rows in flight at once.
        steps: guided steps that a row takes.
        step_seconds: what one step costs, whatever the number of busy slots.
    """

    def __init__(
        self, preset: Preset, slots: int, steps: int = 5, step_seconds: float = 0.0
    ) -> None:
        self.preset = preset
        self.slots = slots
        self.steps = steps
        self.step_seconds = step_seconds
        self._waiting: deque[TranslationRequest] = deque()
        self._running: list[tuple[TranslationRequest, list[StepLosses]]] = []

    def add(self, request: TranslationRequest) -> None:
        """Puts a request in line."""
        self._waiting.append(request)

    @property
    def free_slots(self) -> int:
        """Requests that could be added and would run at the next step."""
        return max(0, self.slots - len(self._running) - len(self._waiting))

    @property
    def is_finished(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not self._running

    @property
    def rows_underway(self) -> float:
        """The rows in slots, each by the share of its steps that is done: 0 .. slots."""
        return sum(len(losses) for _, losses in self._running) / self.steps

    def is_device_dead(self) -> bool:
        """There is no device that could die."""
        return False

    def step(self) -> list[Translation]:
        """One step of every busy slot; the rows that finished with it."""
        while self._waiting and len(self._running) < self.slots:
            self._running.append((self._waiting.popleft(), []))
        if self.step_seconds:
            time.sleep(self.step_seconds)
        finished = []
        for request, losses in list(self._running):
            index = self.steps - 1 - len(losses)
            losses.append(StepLosses(index, "sample", {"structure": float(index) / self.steps}))
            if index == 0:
                self._running.remove((request, losses))
                finished.append(self._end(request, losses))
        return finished

    def _end(self, request: TranslationRequest, losses: list[StepLosses]) -> Translation:
        image = np.uint8(255) - fit(request.content, self.preset.image_size, self.preset.fit)
        if self.preset.fit == "pad":
            image = unpad(image, *request.content.shape[:2])
        image[0, 0] = [request.seed >> shift & 255 for shift in (0, 8, 16)]
        return Translation(
            id=request.id,
            seed=request.seed,
            status="done",
            image=image,
            steps=self.steps,
            seconds=self.steps * self.step_seconds,
            slots=self.slots,
            losses=losses,
        )
