"""The engine of `--student`: a learned look in one pass, and guidance for what it cannot do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dstc.engines.guided import GUIDED, load_networks
from dstc.engines.spec import Engine, EngineSpec
from dstc.errors import SettingsError
from dstc.planning.settings import USUAL_SLOTS, Settings
from dstc.store import weights_bucket
from dstc.worker.shard_task import ShardTask
from dstc_engine.student.names import KIND

if TYPE_CHECKING:
    from dstc_engine.models import Models
    from dstc_engine.operations import Cost
    from dstc_engine.weights.record import Weights


def _make(task: ShardTask) -> Callable[[int], Engine]:
    """Loads the student; the guided networks are loaded at the first row that needs them.

    Raises:
        WeightsError: the student is missing or does not fit the preset; weights of the preset are
            missing, those of guidance too where rows may fall back to it.
        JobError: the bucket of weights does not answer.
    """
    import torch

    from dstc_engine.engine import Engine as GuidedEngine
    from dstc_engine.graphs import forget_graphs
    from dstc_engine.repeatable import ask_for_repeatable_kernels
    from dstc_engine.student.engine import StudentEngine
    from dstc_engine.student.fallback import FallbackEngine
    from dstc_engine.student.load import load_student
    from dstc_engine.weights.fetch import require

    settings = task.settings
    if settings.deterministic:
        ask_for_repeatable_kernels()
    preset, name = settings.resolved_preset, _student(settings)
    weights_bucket.use(task.weights)
    weights_bucket.bring_one(name)
    weights_bucket.bring(preset)
    if settings.fallback == "guided":
        require(preset)  # here, where it ends the job, and not in the middle of it
    student = load_student(name, preset, device=task.device)
    networks: list[tuple[Models, Models | None]] = []

    def make_guided(slots: int) -> GuidedEngine:
        if not networks:
            networks.append(load_networks(settings, task.device, task.weights))
        models, compiled = networks[0]
        return GuidedEngine(models, preset, slots, compiled=compiled)

    def make_engine(slots: int) -> Engine:
        # In the engine's thread: OpenMP keeps this number for each thread.
        if task.device == "cpu" and task.cpu_threads:
            torch.set_num_threads(task.cpu_threads)
        for _, compiled in networks:
            forget_graphs(compiled)
        if task.device == "cuda":
            torch.cuda.empty_cache()  # what an engine before this one held
        return FallbackEngine(
            StudentEngine(student, slots, judges=settings.fallback != "none"),
            lambda: make_guided(min(slots, USUAL_SLOTS)),
            settings.fallback,
        )

    return make_engine


def _student(settings: Settings) -> str:
    if settings.student is None:
        raise SettingsError("--engine student: expected --student, the folder of one")
    return settings.student


def _weights(settings: Settings) -> Sequence[Weights]:
    """The student's, with its looks and gates; and the preset's, where guidance may have a part.

    The encoders' sums are in the student's description.
    """
    from dstc_engine.student.load import check_description
    from dstc_engine.weights import registry

    name = _student(settings)
    weights_bucket.bring_one(name)
    student = registry.find(name, KIND)
    check_description(name, settings.resolved_preset)
    guided = GUIDED.weights(settings) if settings.fallback == "guided" else ()
    return [student, *guided]


def _cost(settings: Settings, with_prompt: bool) -> Cost:
    """Of a row that does not fall back, and whose look has a prompt where any known one has."""
    from dstc_engine.student.cost import cost_of_student
    from dstc_engine.student.load import check_description
    from dstc_engine.student.network import StudentConfig

    name, preset = _student(settings), settings.resolved_preset
    description, record = check_description(name, preset)
    config = StudentConfig.of(description["architecture"], f"student {name}")
    has_prompts = any(look.prompt for look in record.looks)
    return cost_of_student(preset, config, has_prompts, judged=settings.fallback != "none")


STUDENT = EngineSpec(
    name="student",
    make=_make,
    weights=_weights,
    uses_gpu=True,
    prepare=GUIDED.prepare,
    cost=_cost,
)
