"""Fake engine: the job without networks, for tests and benchmarks of the job."""

from __future__ import annotations

from collections.abc import Callable

from dstc.engines.spec import Engine, EngineSpec
from dstc.worker.shard_task import ShardTask


def _make(task: ShardTask) -> Callable[[int], Engine]:
    from dstc_engine.fake import FakeEngine

    settings = task.settings
    preset, seconds = settings.resolved_preset, settings.fake_step_seconds
    return lambda slots: FakeEngine(preset, slots, step_seconds=seconds)


FAKE = EngineSpec(name="fake", make=_make, most_actors=1)  # it only sleeps
