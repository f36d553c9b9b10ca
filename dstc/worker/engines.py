"""What an actor makes its engine with: the networks of the run, loaded once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from dstc.planning.settings import Settings
from dstc.store import weights_bucket
from dstc.worker.engine_thread import Engine

if TYPE_CHECKING:
    from dstc.worker.shard_task import ShardTask
    from dstc_engine.models import Models


def make_engine_factory(task: ShardTask) -> Callable[[int], Engine]:
    """Loads the networks once, and returns what builds an engine of so many slots around them.

    Raises:
        WeightsError: weights are missing or not those named.
        PresetError: the preset asks for what these networks cannot do.
        JobError: the bucket of weights does not answer.
    """
    settings, preset = task.settings, task.settings.resolved_preset
    # Imported here and below: the driver needs this class, and not the seconds torch takes to come.
    if settings.engine == "fake":
        from dstc_engine.fake import FakeEngine

        return lambda slots: FakeEngine(preset, slots, step_seconds=settings.fake_step_seconds)
    if settings.engine != "guided":
        module, _, name = settings.engine.partition(":")
        made: Callable[[int], Engine] = getattr(importlib.import_module(module), name)(settings)
        return made

    import torch

    from dstc_engine.engine import Engine as GuidedEngine

    weights_bucket.use(task.weights)
    models, compiled = load_networks(settings, task.device)
    # What these networks cannot do (a class or a step that the prior lacks) ends the job here;
    # found out in the engine's thread, it would fail row after row.
    GuidedEngine(models, preset, slots=1)

    def make_engine(slots: int) -> Engine:
        # In the engine's thread: OpenMP keeps this number for each thread.
        if task.device == "cpu" and task.cpu_threads:
            torch.set_num_threads(task.cpu_threads)
        if task.device == "cuda":
            torch.cuda.empty_cache()  # what an engine before this one held
        return GuidedEngine(models, preset, slots, compiled=compiled)

    return make_engine


def load_networks(settings: Settings, device: str) -> tuple[Models, Models | None]:
    """The networks of a run, and the same ones compiled where the settings say so.

    Raises:
        WeightsError: weights are missing or not those named.
        PresetError: nothing can be compiled here.
        JobError: the bucket of weights does not answer.
    """
    from dstc_engine.compiled import compiled
    from dstc_engine.models import load_models
    from dstc_engine.weights.fetch import require

    preset = settings.resolved_preset
    weights_bucket.bring(preset)
    require(preset)
    models = load_models(preset, device=device, precision=settings.precision)
    models.unet.checkpointing = settings.checkpointing
    return models, compiled(models, settings.compile) if settings.compile != "no" else None
