"""The ways that `benchmarks/gpu.py` sets side by side, and what each takes: seconds and memory.

S slots. Nothing here needs a GPU; on a CPU memory is not measured.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.device_rates import synchronize
from benchmarks.official_pattern import OfficialPattern
from benchmarks.random_networks import random_rows
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.engine import Engine
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.guidance.conditions import encode_conditions
from dstc_engine.kernel_counts import counting
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest


class EngineWay:
    """The engine with all slots busy.

    Args:
        models, preset: of a chain that is longer than what is measured. slots: S. kind: of rows.
        compiled: as the engine takes it.
    """

    def __init__(
        self,
        models: Models,
        preset: Preset,
        slots: int,
        kind: str,
        compiled: Models | None = None,
    ) -> None:
        self.models, self.preset, self.slots = models, preset, slots
        self.seconds: list[float] = []
        self.failed = 0
        self._engine = Engine(models, preset, slots, compiled=compiled)
        self._rows = _endless(kind, preset.image_size)

    def step(self) -> float:
        """Seconds of one guided step; rows that ended are replaced before."""
        for _ in range(self._engine.free_slots):
            self._engine.add(next(self._rows))
        synchronize(self.models.device)
        started = time.perf_counter()
        ended = self._engine.step()
        synchronize(self.models.device)
        # A row that fails leaves its slot, and the next one pays for the conditions of another.
        self.failed += sum(row.status == "failed" for row in ended)
        return time.perf_counter() - started

    def run(self, steps: int) -> None:
        """Takes so many steps, after one that is not counted: another way ran before."""
        self.step()
        self.seconds += [self.step() for _ in range(steps)]

    def seconds_per_image(self, conditions: float) -> float:
        """Of a row, its share of the steps and what it costs once."""
        step = statistics.median(self.seconds)
        return self.preset.guided_steps * step / self.slots + conditions


class OfficialWay:
    """The authors' evaluation pattern, in chains cut short at both ends.

    A step costs more while the gate of the divergence is open, so both kinds are measured, and an
    image takes as many of each as the preset's chain has.
    """

    slots = 1

    def __init__(self, models: Models, preset: Preset, kind: str) -> None:
        self.models, self.preset = models, preset
        self.open_seconds: list[float] = []
        self.shut_seconds: list[float] = []
        self.failed = 0
        self._rows = _endless(kind, preset.image_size)

    def run(self, steps: int) -> None:
        """A chain of so many steps with the gate open, and one with it shut."""
        row = next(self._rows)
        for seconds, gate in ((self.open_seconds, -1), (self.shut_seconds, 1000)):
            cut = self._cut(steps, gate)
            OfficialPattern(self.models, self._cut(1, gate)).translate(row)
            ended = OfficialPattern(self.models, cut).translate(row)
            self.failed += ended.status == "failed"
            seconds.append(ended.seconds / ended.steps)

    def seconds_per_image(self) -> float:
        """Of a chain; what the script encodes before it is left out, in its favour."""
        opened, shut = steps_by_gate(self.preset)
        times = statistics.median(self.open_seconds), statistics.median(self.shut_seconds)
        return opened * times[0] + shut * times[1]

    def _cut(self, steps: int, gate: int) -> Preset:
        kept = len(Schedule.respaced(self.preset.respacing, self.models.noise_schedule))
        return dataclasses.replace(
            self.preset,
            skip=kept - steps,
            resample=1,
            divergence_gate=gate,
            match_colours=False,
        )


def steps_by_gate(preset: Preset) -> tuple[int, int]:
    """Guided steps of a chain with the gate of the divergence open, and shut."""
    first = preset.guided_steps - preset.resample
    indices = [first] * preset.resample + list(range(first))
    opened = sum(index > preset.divergence_gate for index in indices)
    return opened, len(indices) - opened


def _endless(kind: str, size: int) -> Iterator[TranslationRequest]:
    number = 0
    while True:
        (row,) = random_rows(kind, 1, size, start=number)
        yield row
        number += 1


def flops_of_step(models: Models, preset: Preset, kind: str) -> int:
    """Operations of one row in one guided step of the engine, counted while it runs."""
    engine = Engine(models, preset, 1)
    engine.add(next(_endless(kind, preset.image_size)))
    engine.step()
    with counting() as counted:
        engine.step()
    return sum(did.flops for did in counted.values())


def seconds_of_conditions(models: Models, preset: Preset, kind: str, repeats: int = 3) -> float:
    """To encode a row whose images are new and whose texts are known, the median."""
    seconds = []
    for row in random_rows(kind, repeats + 1, preset.image_size):
        models.features = FeatureCache(0)
        synchronize(models.device)
        started = time.perf_counter()
        encode_conditions(models, preset, row)
        synchronize(models.device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def peak_memory(models: Models, work: Callable[[], Any]) -> int | None:
    """Bytes that these models and this work took at most; None where it is not a GPU's."""
    if models.device.type != "cuda":
        work()
        return None
    torch.cuda.empty_cache()
    others = torch.cuda.memory_allocated(models.device) - weight_bytes(models)
    torch.cuda.reset_peak_memory_stats(models.device)
    work()
    return torch.cuda.max_memory_allocated(models.device) - others


def weight_bytes(models: Models) -> int:
    """Bytes of all networks, as they lie in memory."""
    networks = [models.unet, models.dino, *models.clips, models.arcface, models.vgg]
    tensors = {
        id(tensor): tensor.nbytes
        for network in networks
        if network is not None
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(tensors.values())
