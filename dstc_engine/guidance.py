"""Weights x losses -> one gradient per picture.

S slots, L losses. Every loss maps to (S,), weights are (S, L), so text rows, image rows and rows
with both share a batch, and no row can reach another.

The gradient to x_t is taken in parts (method section 4): each network's losses give a gradient at
z, a leaf; those are summed; and one vector-Jacobian product takes the sum back through the UNet.
Only one network's activations are alive at a time, besides the UNet's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from dstc_engine.conditions import Conditions
from dstc_engine.crops import apply_crops
from dstc_engine.encoders.dino import DinoFeatures
from dstc_engine.losses import SEEN_BY_DINO, SEEN_BY_VGG, WEIGHTED
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
from dstc_engine.sampling import Denoised, StepTable, read_denoiser

# Of the DINO pass of z, and of the VGG features of z; each needs a name in `losses` too.
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
assert (*DINO_LOSSES,) == SEEN_BY_DINO and (*VGG_LOSSES,) == SEEN_BY_VGG


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
    wanted: Collection[str] | None = None,
    classes: Tensor | None = None,
) -> Guidance:
    """Looks at x_t through every network that some row needs.

    Losses of DINO, `style_pixels` and `range` are computed where the preset gives them a weight.
    The others, which cost a network each, where a row does: CLIP is for rows with a prompt.

    Args:
        x: (S, 3, H, W) at the times of `table`. to: what the rows are translated towards.
        previous_cls: (S, D) of each row's previous guided step.
        crops: (M, S, N, 2, 3) crop maps for each of M CLIP models.
        weights: (S, L) in the order of WEIGHTED; zero takes a loss out for a row.
        wanted: losses that some row needs; None reads it off `weights`, which makes a GPU wait.
        classes: (S,) int64, what a class-conditional prior is shown; None for the others.
    """
    if wanted is None:
        columns = (weights != 0).any(dim=0).tolist()
        wanted = [name for name, column in zip(WEIGHTED, columns, strict=True) if column]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        with models.autocast():
            output = models.unet(x, table.time, classes)
        denoised = read_denoiser(output, x, table)
        mix = table.noise * denoised.x0 + (1 - table.noise) * x
    # CLIP always sees the mix; `noise_mix` decides for the others; range sees the raw estimate.
    views = {"z": mix if preset.noise_mix else denoised.x0, "mix": mix, "x0": denoised.x0}
    tally = _Tally(views, weights)
    with torch.enable_grad():
        cls = previous_cls
        guiding = {name: loss for name, loss in DINO_LOSSES.items() if preset.guides(name)}
        if models.dino is not None and guiding:
            with models.autocast():
                seen = models.dino(tally.leaves["z"])
            seen = DinoFeatures(seen.keys.float(), seen.cls.float())
            cls = seen.cls.detach()
            tally.add("z", {n: loss(seen, to, previous_cls, preset) for n, loss in guiding.items()})
        if preset.guides("style_pixels"):
            tally.add("z", {"style_pixels": style_pixels_loss(tally.leaves["z"], to.style)})
        if preset.guides("range"):
            tally.add("x0", {"range": range_loss(tally.leaves["x0"])})
        if "clip" in wanted:
            for clip, maps, target in zip(models.clips, crops, to.clip_targets, strict=True):
                with models.autocast():
                    seen_crops = clip.embed_crops(apply_crops(tally.leaves["mix"], maps, clip.size))
                embedded = seen_crops.reshape(len(x), -1, seen_crops.shape[-1])
                share = clip_direction_loss(embedded, target) / len(models.clips)
                tally.add("mix", {"clip": share})
        if models.arcface is not None and "identity" in wanted:
            with models.autocast():
                face = models.arcface(tally.leaves["z"])
            tally.add("z", {"identity": identity_loss(face.float(), to.source_face)})
        looks = {name: loss for name, loss in VGG_LOSSES.items() if name in wanted}
        if models.vgg is not None and looks:
            with models.autocast():
                layers = models.vgg(tally.leaves["z"])
            layers = {name: features.float() for name, features in layers.items()}
            tally.add("z", {name: loss(layers, to, preset) for name, loss in looks.items()})
    (gradient,) = torch.autograd.grad(list(views.values()), x, tally.gradients())
    return Guidance(
        denoised=Denoised(
            denoised.eps.detach(), denoised.x0.detach(), denoised.log_variance.detach()
        ),
        push=-gradient,
        losses=tally.losses(),
        cls=cls,
    )


class _Tally:
    """Adds up the losses of a step and their gradients at the pictures that losses see.

    Args:
        views: name to picture (S, 3, H, W). weights: (S, L) in the order of WEIGHTED.
    """

    def __init__(self, views: dict[str, Tensor], weights: Tensor) -> None:
        self.leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
        self._gradients = {name: torch.zeros_like(view) for name, view in views.items()}
        self._weights = weights
        self._values = torch.zeros_like(weights)
        self._seen = [False] * len(WEIGHTED)

    def add(self, view: str, losses: dict[str, Tensor]) -> None:
        """Counts losses (S,) that were computed from a leaf; frees what they were computed with."""
        total = torch.zeros(())
        for name, loss in losses.items():
            column = WEIGHTED.index(name)
            self._values[:, column] += loss.detach()
            self._seen[column] = True
            total = total.to(loss) + (self._weights[:, column] * loss).sum()
        (gradient,) = torch.autograd.grad(total, self.leaves[view])
        self._gradients[view] += gradient

    def gradients(self) -> list[Tensor]:
        """One (S, 3, H, W) per view, in the order of `views`."""
        return list(self._gradients.values())

    def losses(self) -> Tensor:
        """(S, L + 1) as `Guidance.losses` has them."""
        counted = (self._weights != 0) & torch.tensor(self._seen, device=self._weights.device)
        total = torch.where(counted, self._weights * self._values, 0.0).sum(dim=1, keepdim=True)
        values = self._values.masked_fill(~counted, float("nan"))
        return torch.cat([values, total], dim=1)
