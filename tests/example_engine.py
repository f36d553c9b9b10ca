"""An engine of one's own, whole: `--engine tests.example_engine:BRIGHTEN` adds to every pixel.

How much it adds lies in a file of weights, which `BRIGHTNESS` names; the device is in the losses.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from pathlib import Path

import numpy as np

from dstc.engines.spec import EngineSpec
from dstc.planning.settings import Settings
from dstc.worker.shard_task import ShardTask
from dstc_engine.image import fit
from dstc_engine.request import StepLosses, Translation, TranslationRequest
from dstc_engine.weights.record import Weights


class Brightener:
    is_finished = property(lambda self: not self.waiting)
    free_slots = property(lambda self: self.slots - len(self.waiting))

    def __init__(self, task: ShardTask, slots: int) -> None:
        self.size, self.slots = task.settings.resolved_preset.image_size, slots
        self.amount = np.uint8(int(Path(os.environ["BRIGHTNESS"]).read_text()))
        self.on_gpu = float(task.device == "cuda")
        self.waiting: deque[TranslationRequest] = deque()

    def add(self, request: TranslationRequest) -> None:
        self.waiting.append(request)

    def step(self) -> list[Translation]:
        request = self.waiting.popleft()
        image = fit(request.content, self.size) + self.amount
        losses = [StepLosses(0, "sample", {"structure": self.on_gpu})]
        done = Translation(request.id, request.seed, "done", image, steps=1, losses=losses)
        return [done]

    def is_device_dead(self) -> bool:
        return False


def _weights(settings: Settings) -> list[Weights]:
    data = Path(os.environ["BRIGHTNESS"]).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return [Weights(name="brightness", file="b", source="here", sha256=digest, licence="CC0-1.0")]


BRIGHTEN = EngineSpec(
    name="brighten",
    make=lambda task: lambda slots: Brightener(task, slots),
    weights=_weights,
    uses_gpu=True,
)
