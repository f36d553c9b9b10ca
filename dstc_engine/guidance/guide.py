"""Guidance: weights x losses -> one gradient per image.

S slots, L losses. Every loss maps to (S,), weights are (S, L), so text rows, image rows and rows
with both share a batch, and no row can reach another.

The gradient to x_t is taken in parts (method section 4): each network's losses give a gradient at
z, a leaf; those are summed; and one vector-Jacobian product takes the sum back through the UNet.
Only one network's activations are alive at a time, besides the UNet's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dstc_engine.crops import apply_crops
from dstc_engine.diffusion.sampling import Denoised, StepTable, read_denoiser
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.dino import DinoFeatures
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.guidance.conditions import Conditions
from dstc_engine.guidance.row_groups import RowGroup, group_size, row_groups
from dstc_engine.losses import LOSSES, WEIGHTED, losses_of
from dstc_engine.losses.clip_direction import clip_direction_loss
from dstc_engine.losses.contrast import contrast_loss
from dstc_engine.losses.divergence import divergence_loss
from dstc_engine.losses.identity import identity_loss
from dstc_engine.losses.range import range_loss
from dstc_engine.losses.structure import structure_loss
from dstc_engine.losses.style import style_cls_loss, style_pixels_loss
from dstc_engine.losses.vgg_content import vgg_content_loss
from dstc_engine.losses.vgg_gram import gram_matrix, vgg_gram_loss
from dstc_engine.models import Models
from dstc_engine.presets import Preset

# How the losses recorded in `losses` are computed: from the DINO pass of their view, from its VGG
# features, or from its pixels. CLIP and ArcFace have one loss each, below.
DINO_LOSSES: dict[str, Callable[[DinoFeatures, Conditions, Tensor, Preset], Tensor]] = {
    "structure": lambda seen, to, previous, preset: structure_loss(seen.keys, to.source_similarity),
    "contrast": lambda seen, to, previous, preset: contrast_loss(
        seen.keys, to.source_keys, preset.contrast_temperature
    ),
    "divergence": lambda seen, to, previous, preset: divergence_loss(seen.cls, previous),
    "style_cls": lambda seen, to, previous, preset: style_cls_loss(seen.cls, to.style_cls),
}
VGG_LOSSES: dict[str, Callable[[dict[str, Tensor], Conditions, Preset], Tensor]] = {
    "vgg_content": lambda seen, to, preset: vgg_content_loss(
        [seen[layer] for layer in preset.vgg_content_layers], to.source_vgg
    ),
    "vgg_gram": lambda seen, to, preset: vgg_gram_loss(
        [gram_matrix(seen[layer]) for layer in preset.vgg_gram_layers], to.style_grams
    ),
}
PIXEL_LOSSES: dict[str, Callable[[Tensor, Conditions], Tensor]] = {
    "style_pixels": lambda seen, to: style_pixels_loss(seen, to.style),
    "range": lambda seen, to: range_loss(seen),
}
_COMPUTED = {
    "dino": (*DINO_LOSSES,),
    "clips": ("clip",),
    "arcface": ("identity",),
    "vgg": (*VGG_LOSSES,),
    None: (*PIXEL_LOSSES,),
}
_RECORDED = {loss.network: losses_of(loss.network) for loss in LOSSES.values()}
assert _COMPUTED == _RECORDED, f"computed here: {_COMPUTED}; recorded in losses: {_RECORDED}"
# What a network looks at: the view of its losses.
VIEWS = {loss.network: loss.view for loss in LOSSES.values() if loss.network is not None}


@dataclass(frozen=True, eq=False)
class Guidance:
    """The guidance of one step.

    Attributes:
        denoised: the UNet's word on x_t, no gradient.
        push: (S, 3, H, W), minus the gradient of each row's weighted total with respect to x_t.
        losses: (S, L + 1) unweighted in the order of LOSS_NAMES; the last column is the weighted
            total. NaN where a loss was not computed or does not count for the row.
        cls: (S, D) class token of z, the next step's `previous_cls`; as given without DINO.
    """

    denoised: Denoised
    push: Tensor
    losses: Tensor
    cls: Tensor


def guide(
    models: Models,
    preset: Preset,
    x: Tensor,
    table: StepTable,
    to: Conditions,
    previous_cls: Tensor,
    crops: Tensor,
    weights: Tensor,
    wanted: Mapping[str, Sequence[int]] | None = None,
    classes: Tensor | None = None,
    group: int | None = None,
) -> Guidance:
    """Computes losses and gradients at x_t, through every network that some row needs.

    A loss without a weight in the preset is not computed. One of DINO is computed for all rows, one
    of pixels too if any row needs it. The others, which cost a network each, are computed for the
    rows that need them, a few rows at a time: CLIP is for rows with a prompt. Whatever is computed,
    a row of weight 0 gets no push from it, and NaN as its value.

    Args:
        x: (S, 3, H, W) at the times of `table`. to: what the rows are translated towards.
        previous_cls: (S, D) of each row's previous guided step.
        crops: (M, S, N, 2, 3) crop maps for each of M CLIP models.
        weights: (S, L) in the order of WEIGHTED; zero takes a loss out for a row.
        wanted: the rows that need a loss, by its name; None reads them off `weights`, which makes a
            GPU wait.
        classes: (S,) int64, what a class-conditional prior is shown; None for the others.
        group: rows that look through such a network at a time; None: as the table's size has it.
    """
    if wanted is None:
        needs = zip(WEIGHTED, weights.T.tolist(), strict=True)
        wanted = {name: [s for s, w in enumerate(column) if w] for name, column in needs}
    needed = {name: rows for name, rows in wanted.items() if rows and preset.guides(name)}

    def groups(*losses: str) -> list[RowGroup]:
        rows = sorted({s for name in losses for s in needed.get(name, ())})
        return row_groups(rows, group or group_size(len(x), x.device), x.device)

    x = x.detach().requires_grad_()
    with torch.enable_grad():
        # Held fixed, the predicted noise lets the gradient through to x_t without the UNet.
        with models.autocast(), torch.set_grad_enabled(preset.guidance_space == "xt"):
            output = models.unet(x, table.time, classes)
        denoised = read_denoiser(output, x, table)
        mix = table.noise * denoised.x0 + (1 - table.noise) * x
    # Which of them a loss sees, its record says.
    views = {"z": mix if preset.noise_mix else denoised.x0, "mix": mix, "x0": denoised.x0}
    tally = _Tally(views, weights)
    with torch.enable_grad():
        cls = previous_cls
        guiding = {name: loss for name, loss in DINO_LOSSES.items() if preset.guides(name)}
        if models.dino is not None and guiding:
            with models.autocast():
                seen = models.dino(tally.leaves[VIEWS["dino"]])
            seen = DinoFeatures(seen.keys.float(), seen.cls.float())
            cls = seen.cls.detach()
            found = {name: loss(seen, to, previous_cls, preset) for name, loss in guiding.items()}
            tally.add(VIEWS["dino"], found)
        for name, pixel_loss in PIXEL_LOSSES.items():
            if name in needed:
                view = LOSSES[name].view
                tally.add(view, {name: pixel_loss(tally.leaves[view], to)})
        for rows in groups("clip"):
            _look_with_clips(models, to, crops, rows, tally)
        if models.arcface is not None:
            for rows in groups("identity"):
                _look_at_faces(models, models.arcface, to, rows, tally)
        looks = {name: loss for name, loss in VGG_LOSSES.items() if name in needed}
        if models.vgg is not None:
            for rows in groups(*looks):
                _look_with_vgg(models, models.vgg, preset, to, looks, rows, tally)
    (gradient,) = torch.autograd.grad(list(views.values()), x, tally.gradients())
    return Guidance(
        denoised=Denoised(
            denoised.eps.detach(), denoised.x0.detach(), denoised.log_variance.detach()
        ),
        push=-gradient,
        losses=tally.losses(),
        cls=cls,
    )


def _look_with_clips(
    models: Models, to: Conditions, crops: Tensor, rows: RowGroup, tally: _Tally
) -> None:
    for clip, maps, target in zip(models.clips, crops, to.clip_targets, strict=True):
        seen_by = tally.look(VIEWS["clips"], rows)
        shown = apply_crops(seen_by, maps[rows.index], clip.size)
        with models.autocast():
            embedded = clip.embed_crops(shown)
        embedded = embedded.reshape(len(seen_by), -1, embedded.shape[-1])
        share = clip_direction_loss(embedded, target[rows.index]) / len(models.clips)
        tally.add(VIEWS["clips"], {"clip": share}, seen_by, rows)


def _look_at_faces(
    models: Models, arcface: ArcFace, to: Conditions, rows: RowGroup, tally: _Tally
) -> None:
    seen_by = tally.look(VIEWS["arcface"], rows)
    with models.autocast():
        face = arcface(seen_by)
    loss = identity_loss(face.float(), to.source_face[rows.index])
    tally.add(VIEWS["arcface"], {"identity": loss}, seen_by, rows)


def _look_with_vgg(
    models: Models,
    vgg: Vgg,
    preset: Preset,
    to: Conditions,
    losses: Mapping[str, Callable[[dict[str, Tensor], Conditions, Preset], Tensor]],
    rows: RowGroup,
    tally: _Tally,
) -> None:
    seen_by = tally.look(VIEWS["vgg"], rows)
    with models.autocast():
        layers = vgg(seen_by)
    layers = {name: features.float() for name, features in layers.items()}
    target = to.rows(rows.index)
    found = {name: loss(layers, target, preset) for name, loss in losses.items()}
    tally.add(VIEWS["vgg"], found, seen_by, rows)


class _Tally:
    """Adds up the losses of a step and their gradients at the images that losses see.

    Args:
        views: name to image (S, 3, H, W). weights: (S, L) in the order of WEIGHTED.
    """

    def __init__(self, views: dict[str, Tensor], weights: Tensor) -> None:
        self.leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
        self._gradients = {name: torch.zeros_like(view) for name, view in views.items()}
        self._weights = weights
        self._values = torch.zeros_like(weights)
        self._seen = [False] * len(WEIGHTED)

    def look(self, view: str, rows: RowGroup) -> Tensor:
        """(G, 3, H, W) of a view, a leaf of its own."""
        return self.leaves[view].detach()[rows.index].requires_grad_()

    def add(
        self,
        view: str,
        losses: dict[str, Tensor],
        seen_by: Tensor | None = None,
        rows: RowGroup | None = None,
    ) -> None:
        """Counts losses that were computed from a leaf; frees what they were computed with.

        Args:
            losses: (S,) each, or (G,) with `rows`.
            seen_by: the leaf that `look` gave for `rows`; None is that of all rows.
        """
        leaf = self.leaves[view] if seen_by is None else seen_by
        weights = self._weights if rows is None else self._weights[rows.index]
        total = leaf.new_zeros(())  # a scalar of the CPU would make a GPU wait
        for name, loss in losses.items():
            column = WEIGHTED.index(name)
            self._seen[column] = True
            if rows is None:
                self._values[:, column] += loss.detach()
            else:
                self._values[:, column].index_add_(0, rows.rows, loss.detach()[: rows.count])
            total = total + (weights[:, column] * loss).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        if rows is None:
            self._gradients[view] += gradient
        else:  # what repeats of a row would push is not counted
            self._gradients[view].index_add_(0, rows.rows, gradient[: rows.count])

    def gradients(self) -> list[Tensor]:
        """One (S, 3, H, W) per view, in the order of `views`."""
        return list(self._gradients.values())

    def losses(self) -> Tensor:
        """(S, L + 1) as `Guidance.losses` has them."""
        counted = self._weights != 0
        for column, seen in enumerate(self._seen):
            if not seen:
                counted[:, column] = False
        total = torch.where(counted, self._weights * self._values, 0.0).sum(dim=1, keepdim=True)
        values = self._values.masked_fill(~counted, float("nan"))
        return torch.cat([values, total], dim=1)
