"""The engine of the method: guided diffusion by `dstc_engine`, one GPU an actor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dstc.engines.spec import Engine, EngineSpec
from dstc.planning.settings import Settings
from dstc.ray_session import cluster_address
from dstc.store import weights_bucket
from dstc.worker.shard_task import ShardTask
from dstc_engine.operations import Cost, cost_of

if TYPE_CHECKING:
    from dstc_engine.models import Models
    from dstc_engine.request import TranslationRequest
    from dstc_engine.step_memory import StepMemory
    from dstc_engine.weights.record import Weights


def _make(task: ShardTask) -> Callable[[int], Engine]:
    """Loads the networks once, and returns what builds an engine of so many slots around them.

    Raises:
        WeightsError: weights are missing or not those named.
        PresetError: the preset asks for what these networks cannot do.
        JobError: the bucket of weights does not answer.
    """
    # Imported here and below: the driver needs this module, and not the seconds torch takes.
    import torch

    from dstc_engine.engine import Engine as GuidedEngine
    from dstc_engine.graphs import forget_graphs

    preset = task.settings.resolved_preset
    models, compiled = load_networks(task.settings, task.device, task.weights)
    # What these networks cannot do (a class or a step that the prior lacks) ends the job here;
    # found out in the engine's thread, it would fail row after row.
    GuidedEngine(models, preset, slots=1)

    def make_engine(slots: int) -> Engine:
        # In the engine's thread: OpenMP keeps this number for each thread.
        if task.device == "cpu" and task.cpu_threads:
            torch.set_num_threads(task.cpu_threads)
        forget_graphs(compiled)
        if task.device == "cuda":
            torch.cuda.empty_cache()  # what an engine before this one held
        return GuidedEngine(models, preset, slots, compiled=compiled)

    return make_engine


def _prepare(settings: Settings) -> Callable[[TranslationRequest], TranslationRequest]:
    from dstc_engine.fitted import fitted

    return partial(fitted, preset=settings.resolved_preset)


def load_networks(
    settings: Settings, device: str, weights: str | None
) -> tuple[Models, Models | None]:
    """The networks of a run, and the same ones compiled or captured where the settings say so.

    Args:
        settings: of the run. device: "cuda" or "cpu". weights: the driver's bucket of them.

    Raises:
        WeightsError: weights are missing or not those named.
        PresetError: nothing can be compiled or captured here.
        JobError: the bucket of weights does not answer.
    """
    from dstc_engine.graphs import made_for_steps
    from dstc_engine.models import load_models
    from dstc_engine.repeatable import ask_for_repeatable_kernels
    from dstc_engine.weights.fetch import require

    if settings.deterministic:
        ask_for_repeatable_kernels()
    preset = settings.resolved_preset
    weights_bucket.use(weights)
    weights_bucket.bring(preset)
    require(preset)
    models = load_models(preset, device=device, precision=settings.precision)
    models.unet.checkpointing = settings.checkpointing
    return models, made_for_steps(models, settings.compile)


def _weights(settings: Settings) -> Sequence[Weights]:
    """The weights of the preset, each with its sum."""
    from dstc_engine.weights import fetch, registry

    preset = settings.resolved_preset
    sums = weights_bucket.sums(preset)
    # Other known sums are checked by the actors, where the files are needed. Here too when the
    # actors run here: a missing file then shows at once, not after Ray has started.
    is_here = not cluster_address(settings.address)
    if is_here and weights_bucket.bucket() is None:
        fetch.require(preset)
    found = []
    for weights in registry.weights_of(preset):
        sha256 = sums.get(weights.name) or (None if is_here else weights.sha256)
        found.append(dataclasses.replace(weights, sha256=sha256 or fetch.upstream_sum(weights)))
    return found


def _cost(settings: Settings, with_prompt: bool) -> Cost:
    return cost_of(settings.resolved_preset, with_prompt)


def _slots_that_fit(settings: Settings, weights: str | None) -> int:
    """As many slots as this process's GPU holds.

    Raises:
        DeviceMemoryError: it does not hold one.
        UserError: the networks cannot be loaded.
    """
    from dstc_engine.fit_slots import slots_that_fit

    models, compiled = load_networks(settings, "cuda", weights)
    return slots_that_fit(models, settings.resolved_preset, compiled)


def _step_memory(settings: Settings) -> StepMemory | None:
    from dstc_engine.step_memory import step_memory

    return step_memory(settings.resolved_preset, settings.precision, settings.checkpointing)


GUIDED = EngineSpec(
    name="guided",
    make=_make,
    weights=_weights,
    uses_gpu=True,
    prepare=_prepare,
    cost=_cost,
    slots_that_fit=_slots_that_fit,
    step_memory=_step_memory,
)
