"""Steps in which only some rows are guided, for presets that leave guidance out of steps.

S rows of the table. Guided and plain rows take different ways through the networks, so they are
parted into groups of one size; a row's arithmetic does not depend on how many others are guided.
Most rows enter together and take the same steps, so most groups are full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dstc_engine.diffusion.sampling import Denoised, StepTable, read_denoiser
from dstc_engine.guidance.conditions import Conditions
from dstc_engine.guidance.guide import Guidance, guide
from dstc_engine.guidance.row_groups import RowGroup, group_size, row_groups
from dstc_engine.losses import LOSS_NAMES
from dstc_engine.models import Models
from dstc_engine.presets import Preset


@dataclass(frozen=True, eq=False)
class StepRows:
    """Inputs of a guided step, one per row; the arguments of `guidance.guide`."""

    x: Tensor
    table: StepTable
    to: Conditions
    previous_cls: Tensor
    crops: Tensor
    weights: Tensor
    wanted: Mapping[str, Sequence[int]]
    classes: Tensor | None

    def of(self, group: RowGroup) -> StepRows:
        """Those of a group; what repeats needs no loss."""
        place = {row: number for number, row in enumerate(group.members)}
        weights = self.weights[group.index]
        weights[group.count :] = 0
        return StepRows(
            x=self.x[group.index],
            table=self.table.rows(group.index),
            to=self.to.rows(group.index),
            previous_cls=self.previous_cls[group.index],
            crops=self.crops[:, group.index],
            weights=weights,
            wanted={n: [place[s] for s in of if s in place] for n, of in self.wanted.items()},
            classes=None if self.classes is None else self.classes[group.index],
        )


def group_size_of_guided(slots: int) -> int:
    """Rows of a group in a table of this many slots.

    A quarter of them: a table then takes one group more than its rows fill, at most, and the
    networks still see several rows at a time.
    """
    return max(1, slots // 4)


def guide_some(
    models: Models, preset: Preset, step: StepRows, guided: Sequence[int], plain: Sequence[int]
) -> Guidance:
    """Guides some rows and asks the prior alone about others.

    Args:
        guided, plain: rows of the table; those in neither get zeros.

    Returns:
        As `guide` does. A plain row's push is 0, its losses NaN, its class token the one given.
    """
    size = group_size_of_guided(len(step.x))
    looking = min(size, group_size(len(step.x), step.x.device))
    nothing = torch.zeros_like(step.x)
    whole = Guidance(
        Denoised(nothing, nothing.clone(), nothing.clone()),
        push=nothing.clone(),
        losses=step.weights.new_full((len(step.x), len(LOSS_NAMES)), float("nan")),
        cls=step.previous_cls.clone(),
    )
    for group in row_groups(guided, size, step.x.device):
        of_group = vars(step.of(group))
        seen = guide(models, preset, **of_group, group=looking)
        _put(whole.denoised, seen.denoised, group)
        whole.push[group.rows] = seen.push[: group.count]
        whole.losses[group.rows] = seen.losses[: group.count]
        whole.cls[group.rows] = seen.cls[: group.count]
    for group in row_groups(plain, size, step.x.device):
        classes = None if step.classes is None else step.classes[group.index]
        table, x = step.table.rows(group.index), step.x[group.index]
        with torch.no_grad(), models.autocast():
            output = models.unet(x, table.time, classes)
        _put(whole.denoised, read_denoiser(output, x, table), group)
    return whole


def _put(whole: Denoised, part: Denoised, group: RowGroup) -> None:
    for name in ("eps", "x0", "log_variance"):
        getattr(whole, name)[group.rows] = getattr(part, name)[: group.count]
