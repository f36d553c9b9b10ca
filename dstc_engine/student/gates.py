"""Gates of a student's images: how far they may be from content and look, learned from the teacher.

B images or N pairs of S x S pixels, F numbers that describe a look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.student.distances import DISTANCES
from dstc_engine.student.encoders import StudentEncoders

Array = npt.NDArray[np.float64]

# A limit is what one teacher's result in twenty exceeds, and a tenth more.
QUANTILE, SLACK = 0.95, 1.1
# Of gradient energy, in levels: an image that is one plain color is as sharp as another.
_LEAST_ENERGY = 0.5
# Pairs that the networks see at once.
_BATCH = 8


@torch.no_grad()
def distances(
    encoders: StudentEncoders, contents: Tensor, images: Tensor, looks: Tensor,
    with_style: bool = True, with_prompt: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    """How far images are from what they should be, each (B,) float32 on the encoders' device.

    structure: of the ViT's self-similarity, to the content's (Tumanyan et al. 2022), as
    `Dino.glance` sees both. style_cls: one minus the cosine of class tokens, to the style image's.
    clip: one minus the cosine of the whole image's embedding to the prompt's, mean over CLIP
    models. blur: the content's gradient energy over the image's.

    Args:
        contents, images: (B, 3, S, S) in [-1, 1]. looks: (B, F), as `looks.Looks` describes them.
        with_style, with_prompt: whether any look has one; no network is asked for what none has.

    Returns:
        By the names of DISTANCES; NaN where a look lacks what is compared.
    """
    width, *others = encoders.widths
    theirs, _ = encoders.dino.glance(contents, with_cls=False)
    ours, cls = encoders.dino.glance(images, with_style)
    structure = structure_loss(ours.float(), self_similarity(theirs.float()))
    style = clip = torch.full_like(structure, math.nan)
    if cls is not None:
        cosine = F.cosine_similarity(cls.float(), looks[:, 2 : 2 + width], dim=-1)
        style = torch.where(looks[:, 0] > 0, 1 - cosine, style)
    if others and with_prompt:
        texts = torch.split(looks[:, 2 + width :], others, dim=1)
        cosines = [
            (model.embed_image(images) * text).sum(dim=1)
            for model, text in zip(encoders.clips, texts, strict=True)
        ]
        clip = torch.where(looks[:, 1] > 0, 1 - torch.stack(cosines).mean(dim=0), clip)
    blur = (sharpness(contents) + _LEAST_ENERGY) / (sharpness(images) + _LEAST_ENERGY)
    return {
        "structure": structure,
        "style_cls": style,
        "clip": clip,
        "blur": blur,
    }


def measure_pairs(
    encoders: StudentEncoders, contents: Tensor, images: Tensor, looks: Tensor
) -> dict[str, Array]:
    """The distances of any number of images, and their sharpness, (N,) by name.

    Args:
        contents, images: (N, 3, S, S) in [-1, 1]. looks: (N, F).
    """
    found: dict[str, list[Array]] = {name: [] for name in (*DISTANCES, "sharpness")}
    with_style, with_prompt = (looks[:, :2] > 0).any(dim=0).tolist()
    parts = (torch.split(each.to(encoders.device), _BATCH) for each in (contents, images, looks))
    for some, made, of in zip(*parts, strict=True):
        measured = distances(encoders, some, made, of, with_style, with_prompt)
        measured["sharpness"] = sharpness(made)
        for name, values in measured.items():
            found[name].append(values.double().cpu().numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


def sharpness(images: Tensor) -> Tensor:
    """Gradient energy of (B, 3, S, S) in [-1, 1], (B,): mean step between neighbors, in levels."""
    levels = (images.clamp(-1, 1) + 1) * 127.5
    down, right = levels.diff(dim=2).abs(), levels.diff(dim=3).abs()
    return down.mean(dim=(1, 2, 3)) + right.mean(dim=(1, 2, 3))


def learn_limits(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The limit of each distance, from those of the teacher's own results of a look.

    Args:
        found: by name; NaN where there is none, and a distance without any gets no limit.
    """
    limits = {}
    for name in DISTANCES:
        values = np.asarray(found.get(name, ()), dtype=np.float64)
        values = values[~np.isnan(values)]
        if len(values):
            limits[name] = float(np.quantile(values, QUANTILE)) * SLACK
    return limits


def failed(found: Mapping[str, float], limits: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the gates that an image fails, in alphabetical order; a NaN is not judged."""
    return tuple(sorted(name for name, limit in limits.items() if found[name] > limit))
