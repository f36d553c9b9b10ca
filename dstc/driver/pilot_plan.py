"""What `--dry-run` shows of a run with `--pilot`: its looks, its stages, and from where it pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dstc.driver.terminal import console, facts_table
from dstc.planning.pilot_cost import FALLBACK, PilotCost
from dstc.planning.pilot_rows import PilotRows

if TYPE_CHECKING:
    from dstc.planning.settings import Settings

_LOOKS = 5


def print_pilot_plan(
    settings: Settings, chosen: PilotRows, cost: PilotCost, stage: str | None, device: str
) -> None:
    """Prints the plan.

    Args:
        settings: of the run. chosen: the pilot's rows. cost: expected.
        stage: that the folder is in; None where it is new. device: "cuda" or "cpu".
    """
    unit = "GPU-hours" if device == "cuda" else "core-hours"
    preset = settings.resolved_preset
    table = facts_table("Plan (nothing was run or written)")
    table.add_row("manifest", settings.manifest)
    table.add_row("rows", f"{cost.rows.rows:,}")
    for look in chosen.looks[:_LOOKS]:
        table.add_row("  look", f"{look}: {look.rows:,} rows, {look.pilot:,} of them in the pilot")
    if (more := len(chosen.looks) - _LOOKS) > 0:
        table.add_row("", f"and {more:,} more looks")
    if chosen.other_looks:
        table.add_row(
            "  others",
            f"{chosen.other_rows:,} rows of {chosen.other_looks:,} rarer looks: "
            f"--fallback {settings.fallback}",
        )
    begun = f"continued, in stage {stage}" if stage else "new"
    table.add_row("output", f"{settings.output} ({begun})")
    table.add_row("preset", f"{preset.name}, {preset.image_size} x {preset.image_size} pixels")
    table.add_row("1 pilot", f"{cost.pilot.rows:,} rows: {cost.pilot.device_hours:,.3g} {unit}")
    table.add_row("", f"({cost.pilot.basis})")
    table.add_row("2 distil", f"{cost.training_hours:,.3g} {unit}, on the driver's machine")
    table.add_row("3 translate", f"{cost.rows.rows:,} rows: {cost.rows.device_hours:,.3g} {unit}")
    table.add_row("", f"({cost.rows.basis})")
    table.add_row(
        "all stages",
        f"{cost.hours():,.3g} {unit}; {cost.hours(FALLBACK):,.3g} where {FALLBACK:.0%} of the rows "
        "fall back",
    )
    table.add_row("guidance alone", f"{cost.guided.device_hours:,.3g} {unit}")
    table.add_row("pays from", f"{_rows(cost, 0.0)}; {_rows(cost, FALLBACK)} with that fallback")
    console().print(table)


def _rows(cost: PilotCost, fallback: float) -> str:
    rows = cost.pays_from(fallback)
    return "no number of rows" if rows is None else f"{rows:,} rows"
