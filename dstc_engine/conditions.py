"""What a row is translated towards, encoded once when it enters its slot.

S slots, T tokens and D width of the ViT, E width of a CLIP model's embedding, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dstc_engine import image
from dstc_engine.crops import apply_crops
from dstc_engine.losses.clip_direction import clip_direction_loss, clip_target
from dstc_engine.losses.structure import self_similarity
from dstc_engine.models import Models
from dstc_engine.noise import Noise
from dstc_engine.presets import Preset
from dstc_engine.request import Picture, TranslationRequest


@dataclass(frozen=True, eq=False)
class Conditions:
    """The table of all slots' conditions; a row's own has S = 1. Zeros where a part is missing.

    Attributes:
        source: (S, 3, H, W) the content in [-1, 1]. mask: (S, 1, H, W), 1 is translated.
        source_keys: (S, T, D). source_similarity: (S, T, T). source_cls: (S, D).
        style: (S, 3, H, W) in [-1, 1]. style_cls: (S, D).
        clip_targets: one (S, E) per CLIP model, unit length.
        source_face: (S, 512) ArcFace embedding, (S, 0) when no identity model is loaded.
    """

    source: Tensor
    mask: Tensor
    source_keys: Tensor
    source_similarity: Tensor
    source_cls: Tensor
    style: Tensor
    style_cls: Tensor
    clip_targets: tuple[Tensor, ...]
    source_face: Tensor

    def __setitem__(self, slot: int, row: Conditions) -> None:
        """Puts a row's own conditions into a slot, in place."""
        for field in fields(self):
            mine, new = getattr(self, field.name), getattr(row, field.name)
            if isinstance(mine, tuple):
                for table, value in zip(mine, new, strict=True):
                    table[slot] = value[0]
            else:
                mine[slot] = new[0]

    def empty(self, slots: int) -> Conditions:
        """A table of zeros for this many slots, shaped like this row's."""

        def zeros(like: Tensor) -> Tensor:
            return like.new_zeros((slots, *like.shape[1:]))

        tables: dict[str, Any] = {}
        for field in fields(self):
            mine = getattr(self, field.name)
            tables[field.name] = tuple(map(zeros, mine)) if isinstance(mine, tuple) else zeros(mine)
        return Conditions(**tables)


@torch.no_grad()
def encode_conditions(
    models: Models, preset: Preset, request: TranslationRequest, noise: Noise
) -> tuple[Conditions, float]:
    """Encodes a request.

    Returns:
        Its conditions (S = 1), and the CLIP loss of the source itself, which stands in for the
        previous step's before there is one; NaN without a prompt.
    """

    def tensor(picture: Picture) -> Tensor:
        fitted = image.fit(picture, preset.image_size, preset.fit)
        return image.to_tensor(fitted)[None].to(models.device)

    source = tensor(request.content)
    with models.autocast():
        seen = models.dino(source)
    keys, cls = seen.keys.float(), seen.cls.float()
    style, style_cls = torch.zeros_like(source), torch.zeros_like(cls)
    if request.style is not None:
        style = tensor(request.style)
        with models.autocast():
            style_cls = models.dino(style).cls.float()
    targets, clip_loss = _clip_targets(models, preset, request, source, noise)
    mask = torch.ones_like(source[:, :1])
    if request.mask is not None:
        fitted = image.fit(request.mask, preset.image_size, preset.fit)
        mask = torch.from_numpy(fitted.copy()).to(source)[None, None] / 255.0
    face = source.new_zeros(1, 0)
    if models.arcface is not None:
        with models.autocast():
            face = models.arcface(source).float()
    row = Conditions(
        source=source,
        mask=mask,
        source_keys=keys,
        source_similarity=self_similarity(keys),
        source_cls=cls,
        style=style,
        style_cls=style_cls,
        clip_targets=targets,
        source_face=face,
    )
    return row, clip_loss


def _clip_targets(
    models: Models, preset: Preset, request: TranslationRequest, source: Tensor, noise: Noise
) -> tuple[tuple[Tensor, ...], float]:
    targets = []
    total = 0.0
    for clip in models.clips:
        with models.autocast():
            picture = clip.embed_picture(source)[0]
        target = torch.zeros_like(picture)
        if request.prompt is not None:
            towards = models.embed_text(clip, request.prompt)
            # No source prompt leaves the term out; the official loop embeds the text "None".
            away = target
            if request.source_prompt:
                away = models.embed_text(clip, request.source_prompt)
            weights = (
                preset.direction_target,
                preset.direction_source_text,
                preset.direction_source_image,
            )
            target = clip_target(towards, away, picture, weights)
            maps = noise.crops()[None].to(source.device)
            with models.autocast():
                crops = clip.embed_crops(apply_crops(source, maps, clip.size))
            total += float(clip_direction_loss(crops[None], target[None]))
        targets.append(target[None])
    loss = total / len(models.clips) if request.prompt is not None else float("nan")
    return tuple(targets), loss
