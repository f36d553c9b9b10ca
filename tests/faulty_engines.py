"""Engines that break as real ones do: `make_settings(engine="tests.faulty_engines:DEAD_DEVICE")`.

What happened so far is kept in files beside the run folder, since the process that tells it dies.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dstc.engines.spec import EngineSpec
from dstc.planning.settings import Settings
from dstc.worker.shard_task import ShardTask
from dstc_engine.fake import FakeEngine
from dstc_engine.request import Translation, TranslationRequest

BAD_ROW = "row/007"
ENDLESS_ROW = "row/021"
# Slots for which the device of `small_memory` has room.
ROOM = 2


def marks(output: str | Path) -> Path:
    """Where the engines of a run leave their marks."""
    folder = Path(f"{output}-marks")
    folder.mkdir(exist_ok=True)
    return folder


class _Faulty(FakeEngine):
    def __init__(self, settings: Settings, slots: int) -> None:
        super().__init__(settings.resolved_preset, slots, step_seconds=settings.fake_step_seconds)
        self.marks = marks(settings.output)

    def holds(self, row_id: str) -> bool:
        return any(request.id == row_id for request, _ in self._running)

    def mark(self, name: str) -> int:
        """Leaves one more mark of this name; how many there are now."""
        (self.marks / f"{name}-{os.getpid()}-{time.monotonic_ns()}").touch()
        return len(list(self.marks.glob(f"{name}-*")))


class DeadDevice(_Faulty):
    """Its device dies under a row, once."""

    is_dead = False

    def step(self) -> list[Translation]:
        ended = super().step()
        if self.holds(BAD_ROW) and self.mark("dead") == 1:
            self.is_dead = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return ended

    def is_device_dead(self) -> bool:
        return self.is_dead


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class SmallMemory(_Faulty):
    """Has room for `ROOM` slots."""

    def step(self) -> list[Translation]:
        if self.slots > ROOM:
            raise OutOfMemoryError("CUDA out of memory")
        return super().step()


class Deadly(_Faulty):
    """Dies under a row as a segmentation fault or the kernel's memory guard would end it."""

    def add(self, request: TranslationRequest) -> None:
        super().add(request)
        if request.id == BAD_ROW:
            self.mark("died")
            os.kill(os.getpid(), signal.SIGKILL)


class Hanging(_Faulty):
    """Does not come back from a step with one row, and never ends another."""

    def step(self) -> list[Translation]:
        ended = super().step()
        if self.holds(BAD_ROW):
            self.mark("hung")
            threading.Event().wait()
        for request, losses in self._running:
            if request.id == ENDLESS_ROW:
                del losses[1:]
        return ended


class Quitting(_Faulty):
    """Leaves, as a script would, under one row."""

    def step(self) -> list[Translation]:
        ended = super().step()
        if self.holds(BAD_ROW):
            raise SystemExit(1)
        return ended


def _spec(name: str, make: Callable[[Settings, int], _Faulty]) -> EngineSpec:
    return EngineSpec(name=name, make=lambda task: lambda slots: make(task.settings, slots))


DEAD_DEVICE = _spec("dead device", DeadDevice)
SMALL_MEMORY = _spec("small memory", SmallMemory)
DEADLY = _spec("deadly", Deadly)
HANGING = _spec("hanging", Hanging)
QUITTING = _spec("quitting", Quitting)


def _die_while_loading(task: ShardTask) -> Callable[[int], _Faulty]:
    """The first two processes end where they would load their networks."""
    if _Faulty(task.settings, 1).mark("loading") <= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return lambda slots: _Faulty(task.settings, slots)


def _never_load(task: ShardTask) -> Callable[[int], _Faulty]:
    """Every process ends where it would load its networks."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL is final")


DIES_WHILE_LOADING = EngineSpec(name="dies while loading", make=_die_while_loading)
NEVER_LOADS = EngineSpec(name="never loads", make=_never_load)


def _quit_while_loading(task: ShardTask) -> Callable[[int], _Faulty]:
    raise SystemExit("no license")


QUITS_WHILE_LOADING = EngineSpec(name="quits while loading", make=_quit_while_loading)
