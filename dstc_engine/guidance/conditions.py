"""What a row is translated towards, encoded once when it enters its slot.

S slots, T tokens and D width of the ViT, E width of a CLIP model's embedding, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dstc_engine.feature_cache import Features
from dstc_engine.image import fit, fit_mask
from dstc_engine.losses.clip_direction import clip_direction_loss, clip_target
from dstc_engine.losses.structure import self_similarity
from dstc_engine.losses.vgg_gram import gram_matrix
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, TranslationRequest
from dstc_engine.tensors import to_tensor
from dstc_engine.transfer import upload


@dataclass(frozen=True, eq=False)
class Conditions:
    """The table of all slots' conditions; a row's own has S = 1. Zeros where a part is missing.

    Attributes:
        source: (S, 3, H, W) the content in [-1, 1]. mask: (S, 1, H, W), 1 is translated.
        source_keys: (S, T, D). source_similarity: (S, T, T). source_cls: (S, D).
        style: (S, 3, H, W) in [-1, 1]. style_cls: (S, D).
        clip_targets: one (S, E) per CLIP model, unit length.
        source_face: (S, 512) ArcFace embedding.
        source_vgg: one (S, C, H', W') for each content layer of VGG, C channels.
        style_grams: one (S, C, C) for each Gram layer of VGG.

    What only a network that is not loaded could tell has no tokens, no width or no layers.
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
    source_vgg: tuple[Tensor, ...] = ()
    style_grams: tuple[Tensor, ...] = ()

    def __setitem__(self, slot: int, row: Conditions) -> None:
        """Puts a row's own conditions into a slot, in place."""
        for field in fields(self):
            mine, new = getattr(self, field.name), getattr(row, field.name)
            if isinstance(mine, tuple):
                for table, value in zip(mine, new, strict=True):
                    table[slot] = value[0]
            else:
                mine[slot] = new[0]

    def rows(self, index: Tensor) -> Conditions:
        """Those of some slots, (G,) int64, as a table of G."""
        tables: dict[str, Any] = {}
        for field in fields(self):
            mine = getattr(self, field.name)
            tables[field.name] = (
                tuple(table[index] for table in mine) if isinstance(mine, tuple) else mine[index]
            )
        return Conditions(**tables)

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
    models: Models, preset: Preset, request: TranslationRequest
) -> tuple[Conditions, float]:
    """Encodes a request; what networks said of the same image before is not asked again.

    Returns:
        Its conditions (S = 1), and the CLIP loss of the whole source, without crops, which stands
        in for the previous step's before there is one; NaN without a prompt or CLIP models.
    """
    content = _Image(models, preset, request.content)
    source = content.tensor
    keys, similarity, cls = content.structure()
    style, style_cls = torch.zeros_like(source), torch.zeros_like(cls)
    grams = _no_grams(models, preset, source)
    if request.style is not None:
        styled = _Image(models, preset, request.style)
        style, style_cls, grams = styled.tensor, styled.appearance(), styled.vgg_grams()
    targets, clip_loss = _clip_targets(models, preset, request, content)
    mask = torch.ones_like(source[:, :1])
    if request.mask is not None:
        fitted = fit_mask(request.mask, preset.image_size, preset.fit)
        mask = torch.from_numpy(fitted.copy()).to(source)[None, None] / 255.0
    row = Conditions(
        source=source,
        mask=mask,
        source_keys=keys,
        source_similarity=similarity,
        source_cls=cls,
        style=style,
        style_cls=style_cls,
        clip_targets=targets,
        source_face=content.face(),
        source_vgg=content.vgg_content(),
        style_grams=grams,
    )
    return row, clip_loss


class _Image:
    """A fitted image, and what the networks see in it (S = 1); empty where one is not loaded."""

    def __init__(self, models: Models, preset: Preset, image: ImageArray) -> None:
        fitted = fit(image, preset.image_size, preset.fit)
        self.tensor = upload(to_tensor(fitted)[None], models.device)
        self._models, self._preset = models, preset
        # Fitted, so that images of all sizes need the same key and no other field of the preset.
        self._digest = hashlib.sha256(fitted.tobytes()).digest()

    def structure(self) -> Features:
        """(1, T, D) keys, (1, T, T) self-similarity, (1, D) class token."""
        dino = self._models.dino
        if dino is None:
            return tuple(self.tensor.new_zeros(shape) for shape in ((1, 0, 0), (1, 0, 0), (1, 0)))

        def look() -> Features:
            seen = self._through(dino)
            keys = seen.keys.float()
            return keys, self_similarity(keys), seen.cls.float()

        return self._seen("structure", look)

    def appearance(self) -> Tensor:
        """(1, D) class token alone: a hundredth of what `structure` holds in memory."""
        dino = self._models.dino
        if dino is None:
            return self.tensor.new_zeros(1, 0)
        return self._seen("appearance", lambda: (self._through(dino).cls.float(),))[0]

    def clip(self, number: int) -> Tensor:
        """(E,) unit embedding by the CLIP model of this number."""
        embed = self._models.clips[number].embed_image
        return self._seen(("clip", number), lambda: (self._through(embed)[0],))[0]

    def face(self) -> Tensor:
        """(1, 512) unit ArcFace embedding."""
        arcface = self._models.arcface
        if arcface is None:
            return self.tensor.new_zeros(1, 0)
        return self._seen("face", lambda: (self._through(arcface).float(),))[0]

    def vgg_content(self) -> Features:
        """(1, C, H', W') of each content layer."""
        vgg, layers = self._models.vgg, self._preset.vgg_content_layers
        if vgg is None or not self._preset.guides("vgg_content"):
            return ()

        def look() -> Features:
            seen = self._through(vgg)
            return tuple(seen[layer].float() for layer in layers)

        return self._seen(("vgg_content", layers), look)

    def vgg_grams(self) -> Features:
        """(1, C, C) of each Gram layer."""
        vgg, layers = self._models.vgg, self._preset.vgg_gram_layers
        if vgg is None or not self._preset.guides("vgg_gram"):
            return ()

        def look() -> Features:
            seen = self._through(vgg)
            return tuple(gram_matrix(seen[layer].float()) for layer in layers)

        return self._seen(("vgg_gram", layers), look)

    def _through(self, network: Callable[[Tensor], Any]) -> Any:
        with self._models.autocast():
            return network(self.tensor)

    def _seen(self, what: Hashable, look: Callable[[], Features]) -> Features:
        return self._models.features.get((what, self._digest), look)


def _no_grams(models: Models, preset: Preset, like: Tensor) -> Features:
    if models.vgg is None or not preset.guides("vgg_gram"):
        return ()
    widths = [models.vgg.channels(layer) for layer in preset.vgg_gram_layers]
    return tuple(like.new_zeros(1, width, width) for width in widths)


def _clip_targets(
    models: Models, preset: Preset, request: TranslationRequest, content: _Image
) -> tuple[tuple[Tensor, ...], float]:
    if request.prompt is None:
        return tuple(content.tensor.new_zeros(1, clip.width) for clip in models.clips), math.nan
    weights = (
        preset.direction_target,
        preset.direction_source_text,
        preset.direction_source_image,
    )
    targets, losses = [], []
    for number, clip in enumerate(models.clips):
        image = content.clip(number)
        towards = models.embed_text(clip, request.prompt)
        # No source prompt leaves the term out; the official loop embeds the text "None".
        away = torch.zeros_like(image)
        if request.source_prompt:
            away = models.embed_text(clip, request.source_prompt)
        target = clip_target(towards, away, image, weights)[None]
        targets.append(target)
        losses.append(float(clip_direction_loss(image[None, None], target)))
    return tuple(targets), sum(losses) / len(losses) if losses else math.nan
