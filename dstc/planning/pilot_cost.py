"""What a run with `--pilot` will cost, stage by stage, against guidance for every row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dstc.engines.guided import GUIDED
from dstc.planning.cost import ASSUMED_TFLOPS, Estimate, estimate
from dstc.planning.settings import Settings

if TYPE_CHECKING:
    from dstc_engine.student.training import StudentTraining

# The share of rows that fall back, of which a plan also says what it would change.
FALLBACK = 0.2


@dataclass(frozen=True)
class PilotCost:
    """Expected device-hours of the stages, and of guidance alone.

    Attributes:
        pilot: guided rows. training_hours: of the student. rows: all of them by the student.
        guided: all of them by guidance.
    """

    pilot: Estimate
    training_hours: float
    rows: Estimate
    guided: Estimate

    def hours(self, fallback: float = 0.0) -> float:
        """Of all stages, where this share of rows falls back to guidance."""
        return (
            self.pilot.device_hours
            + self.training_hours
            + self.rows.device_hours
            + fallback * self.guided.device_hours
        )

    def pays_from(self, fallback: float = 0.0) -> int | None:
        """Rows of a manifest from which the pilot costs less than guidance; None: never.

        Args:
            fallback: share of the rows that fall back, 0 to 1.
        """
        saved = (1 - fallback) * self.guided.seconds_per_row - self.rows.seconds_per_row
        if saved <= 0:
            return None
        return math.ceil(3600 * (self.pilot.device_hours + self.training_hours) / saved)


def expected_cost(
    settings: Settings,
    how: StudentTraining,
    pilot_rows: int,
    rows: int,
    looks: int,
    has_prompts: bool,
    device: str,
    tflops: float | None = None,
) -> PilotCost:
    """Estimates the stages of a run.

    Args:
        settings: of the run. how: the student's training. pilot_rows: guided for it.
        rows: of the manifest. looks: of the pilot. has_prompts: some of them have one.
        device: "cuda" or "cpu". tflops: of one device; by default those of `ASSUMED_TFLOPS`.
    """
    from dstc_engine.student.cost import config_of, cost_of_student, training_flops

    assert GUIDED.cost is not None
    preset, precision = settings.resolved_preset, settings.precision
    teacher = GUIDED.cost(settings, has_prompts)
    sizes, judged = config_of(preset, how, looks, has_prompts), settings.fallback != "none"
    student = cost_of_student(preset, sizes, has_prompts, judged)
    rate = tflops or ASSUMED_TFLOPS[device, "bf16" if device == "cuda" and how.bf16 else "fp32"]
    flops = training_flops(preset, how, looks, has_prompts)
    return PilotCost(
        pilot=estimate(teacher, pilot_rows, device, precision, tflops=tflops),
        training_hours=flops / (rate * 1e12) / 3600,
        # A student's networks are in float32, whatever guidance's are.
        rows=estimate(student, rows, device, "fp32", tflops=tflops),
        guided=estimate(teacher, rows, device, precision, tflops=tflops),
    )
