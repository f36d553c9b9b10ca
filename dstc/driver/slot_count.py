"""`--slots auto`: as many slots as the GPUs of this run hold, measured once.

The slot count decides the shape of every batch and with it the last bits of images, so all actors
of a run have the same, and it is part of what the run is: whoever continues a run takes the number
that it was begun with, and measures nothing.
"""

from __future__ import annotations

from typing import Any

import ray
import ray.exceptions

from dstc.engines.registry import find_engine
from dstc.errors import JobError
from dstc.planning.run_identity import recorded_slots
from dstc.planning.settings import Settings
from dstc_engine.errors import DstcError

# Ray names the kind of a node's cards by a resource, of which a trace picks such a node.
_KIND = "accelerator_type:"
_TRACE = 0.001


def with_recorded_slots(settings: Settings) -> Settings:
    """The settings with the slots of the run in the output folder, where there is one."""
    if not settings.auto_slots:
        return settings
    slots = recorded_slots(settings.output)
    return settings if slots is None else _with(settings, slots)


def with_measured_slots(settings: Settings, device: str, weights: str | None) -> Settings:
    """The settings with the fewest slots that any kind of card in the cluster holds.

    Ray is running. On CPUs, and for engines that do not measure, it is `USUAL_SLOTS`.

    Args:
        device: "cuda" or "cpu". weights: the bucket that the driver takes weights from.

    Raises:
        DeviceMemoryError: a card does not hold one slot.
        UserError: the networks cannot be loaded.
    """
    if device != "cuda" or find_engine(settings.engine).slots_that_fit is None:
        return _with(settings, settings.slots)
    measure = ray.remote(num_cpus=0, num_gpus=1, max_calls=1)(_measure)
    kinds = kinds_of_cards(ray.nodes())  # type: ignore[no-untyped-call]
    asked = [
        measure.options(resources={kind: _TRACE} if kind else None).remote(settings, weights)
        for kind in kinds or [""]
    ]
    slots = []
    for found in _answers(asked):
        if isinstance(found, Exception):
            raise found
        slots.append(found)
    return _with(settings, min(slots))


def _answers(asked: list[Any]) -> list[int | Exception]:
    try:
        answers: list[int | Exception] = ray.get(asked)
    except ray.exceptions.RayError as error:  # the process died, or raised what is not ours
        lines = str(error).strip().splitlines() or ["no message"]
        raise JobError(
            f"--slots auto: measuring a GPU broke ({type(error).__name__}: {lines[-1]}); --slots N "
            "measures nothing"
        ) from error
    return answers


def kinds_of_cards(nodes: list[dict[str, Any]]) -> list[str]:
    """Ray resources that name the kinds of GPU among living nodes; unnamed kinds have none."""
    kinds = set()
    for node in nodes:
        if node["Alive"] and node["Resources"].get("GPU"):
            kinds |= {name for name in node["Resources"] if name.startswith(_KIND)}
    return sorted(kinds)


def _with(settings: Settings, slots: int) -> Settings:
    return settings.model_copy(update={"slots": slots, "auto_slots": False})


def _measure(settings: Settings, weights: str | None) -> int | Exception:
    """On a GPU: its slots. An error is returned, since Ray would wrap one that is raised."""
    slots_that_fit = find_engine(settings.engine).slots_that_fit
    assert slots_that_fit is not None, "not asked otherwise"
    try:
        return slots_that_fit(settings, weights)
    except DstcError as error:
        return error
