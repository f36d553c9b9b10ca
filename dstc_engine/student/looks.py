"""Looks: what a row asks for besides its content, and what a student may be asked for.

L looks, F numbers that describe one: whether it has a style image and a prompt, 0 or 1 each; then
the style image's class token, and the prompt's embedding by each CLIP model, all of unit length,
zeros where a look lacks one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from dstc_engine.image import fit
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, TranslationRequest
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.tensors import to_tensor

# Style images that are remembered as they came; rows that share one bring the same array.
_REMEMBERED = 64


@dataclass(frozen=True)
class Look:
    """A style image, a prompt, or both; rows with equal looks share one.

    Attributes:
        style: sha256 of the style image, fitted to the preset's size; None without one.
        prompt: as the row has it; None without one.
    """

    style: str | None
    prompt: str | None

    @property
    def key(self) -> str:
        """Names the look, 16 hex digits, on every machine."""
        text = f"{self.style or ''}\n{self.prompt or ''}"
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def style_digest(style: ImageArray, preset: Preset) -> str:
    """sha256 of a style image (H, W, 3) uint8 as the preset fits it."""
    return hashlib.sha256(fit(style, preset.image_size, preset.fit).tobytes()).hexdigest()


class Looks:
    """The looks of requests, and what describes them.

    Args:
        encoders: the preset's. preset: how style images are fitted.

    Example:
        looks = Looks(encoders, preset)
        look = looks.of(request)
        described = looks.describe(look, request)
    """

    def __init__(self, encoders: StudentEncoders, preset: Preset) -> None:
        self._encoders = encoders
        self._preset = preset
        # The array itself is kept too, or another one could be given its id.
        self._digests: OrderedDict[int, tuple[ImageArray, str]] = OrderedDict()
        self._described: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def features(self) -> int:
        """F."""
        return 2 + sum(self._encoders.widths)

    def of(self, request: TranslationRequest) -> Look:
        """The look that a request asks for."""
        style = None if request.style is None else self._digest(request.style)
        return Look(style, request.prompt)

    def describe(self, look: Look, request: TranslationRequest) -> Tensor:
        """(F,) float32 of a look, on the encoders' device.

        Args:
            request: any that asks for it.
        """
        if look.key not in self._described:
            self._described[look.key] = self._describe(request)
            if len(self._described) > 1024:
                self._described.popitem(last=False)
        return self._described[look.key]

    @torch.no_grad()
    def _describe(self, request: TranslationRequest) -> Tensor:
        device, (width, *others) = self._encoders.device, self._encoders.widths
        described = torch.zeros(self.features, device=device)
        if request.style is not None:
            fitted = fit(request.style, self._preset.image_size, self._preset.fit)
            described[0] = 1
            image = to_tensor(fitted)[None].to(device)
            described[2 : 2 + width] = self._encoders.appearance(image)[0]
        if request.prompt is not None and others:
            described[1] = 1
            described[2 + width :] = torch.cat(self._encoders.text(request.prompt))
        return described

    def _digest(self, style: ImageArray) -> str:
        found = self._digests.get(id(style))
        if found is None:
            found = style, style_digest(style, self._preset)
            self._digests[id(style)] = found
            if len(self._digests) > _REMEMBERED:
                self._digests.popitem(last=False)
        return found[1]


def reaches(known: Tensor) -> Tensor:
    """How far a look may lie from the nearest known one, (L, F) to (L,): as those of its kind do.

    A kind is all looks with a style image, with a prompt, or with both; the reach of a kind is the
    distance of its two nearest looks. Next to the only look of its kind nothing is near.
    """
    distances = _distances(known, known).fill_diagonal_(torch.inf)
    closest, kinds = distances.min(dim=1).values, known[:, :2]
    is_alike = (kinds[:, None] == kinds).all(dim=2)
    return torch.where(is_alike, closest, torch.inf).min(dim=1).values.nan_to_num(posinf=0.0)


def nearest(described: Tensor, known: Tensor) -> tuple[int, float]:
    """The known look of the same kind that is nearest to a described one, and how far it is.

    Args:
        described: (F,). known: (L, F).

    Returns:
        Its number, and the distance; infinite where there is none of the kind.
    """
    distances = _distances(described[None], known)[0]
    index = int(distances.argmin())
    return index, float(distances[index])


def _distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """(A, F) and (B, F) to (A, B); infinite between looks of two kinds."""
    # Not `cdist`, whose sums depend on the number of rows.
    distances = (ours[:, None] - theirs).norm(dim=2)
    is_alike = (ours[:, None, :2] == theirs[:, :2]).all(dim=2)
    return torch.where(is_alike, distances, torch.inf)
