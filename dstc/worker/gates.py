"""Gates: limits on what a finished image's own losses say, so that failures are not silent.

An image is judged by its unweighted losses at its last guided step, the last entry of the column
`losses`. One above its limit flags the row. A loss that was not computed for the row is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstc_engine.presets import Preset
from dstc_engine.request import StepLosses, Translation

GATES = ("clip", "range", "structure", "style_cls")
NO_GATE = -1.0
# The lowest value of each loss, where distance to a limit is counted from: clip is minus a cosine.
_LEAST = {"clip": -1.0}


@dataclass(frozen=True)
class Verdict:
    """What the gates say of an image.

    Attributes:
        flagged: names of the gates it fails, as "range, structure"; None when it passes.
        worst: the highest loss, as a share of its limit; above 1 when flagged, 0 without any gate.
    """

    flagged: str | None
    worst: float


def limits_of(preset: Preset) -> dict[str, float]:
    """The gates that a preset sets, by the names of their losses."""
    limits = {name: getattr(preset, f"gate_{name}") for name in GATES}
    return {name: limit for name, limit in limits.items() if limit != NO_GATE}


def judge(losses: Sequence[StepLosses], limits: Mapping[str, float]) -> Verdict:
    """Compares an image's last losses with the limits.

    Args:
        losses: one entry for each guided step; of the last chain, in order.
        limits: of `limits_of`.
    """
    last = losses[-1].losses if losses else {}
    found = {name: last.get(name, math.nan) for name in limits}
    found = {name: loss for name, loss in found.items() if not math.isnan(loss)}
    flagged = sorted(name for name, loss in found.items() if loss > limits[name])
    shares = (_share(name, loss, limits[name]) for name, loss in found.items())
    return Verdict(", ".join(flagged) or None, max(shares, default=0.0))


def told(verdict: Verdict, translation: Translation) -> dict[str, Any]:
    """Fields of an `Outcome`: what an image is flagged with, what made it, and its distances.

    It is flagged with gates of its losses, and with those of a student's distances.
    """
    names = verdict.flagged.split(", ") if verdict.flagged else []
    return {
        "flagged": ", ".join(sorted({*names, *translation.failed_gates})) or None,
        "made_by": translation.made_by or None,
        "gate_distances": translation.distances or None,
    }


def is_better(new: Verdict, old: Verdict) -> bool:
    """Whether a new image should take the place of an old one: passing, else less far above."""
    if (new.flagged is None) != (old.flagged is None):
        return new.flagged is None
    return new.worst < old.worst


def _share(name: str, loss: float, limit: float) -> float:
    least = _LEAST.get(name, 0.0)
    return (loss - least) / (limit - least)
