"""The networks of a preset, loaded once and frozen."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dstc_engine.attention import use_plain_attention
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.errors import PresetError
from dstc_engine.precision import PRECISIONS, autocast, keep_products_in
from dstc_engine.presets import Preset
from dstc_engine.schedule import NoiseSchedule
from dstc_engine.unet import UNet

# Prompts repeat over a data set: embedding one costs 79 text passes per CLIP model.
_TEXTS_KEPT = 4096


@dataclass(eq=False)
class Models:
    """What an engine looks through. Parameters need no gradient; only pictures do.

    Attributes:
        unet: the prior. dino: structure and appearance. clips: text.
        arcface: identity of faces, or None. noise_schedule: what the prior was trained with.
        device: where all of them live. precision: "fp32", "bf16" or "fp16"; losses are float32.
    """

    unet: UNet
    dino: Dino
    clips: tuple[Clip, ...]
    arcface: ArcFace | None = None
    noise_schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    _texts: OrderedDict[tuple[int, str], Tensor] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PresetError(f"precision is {self.precision!r}; expected {', '.join(PRECISIONS)}")
        networks = [self.unet, self.dino, *self.clips]
        if self.arcface is not None:
            networks.append(self.arcface)
        for network in networks:
            network.eval().requires_grad_(False).to(self.device)
        if self.precision != "fp32":
            self._go_half()

    def _go_half(self) -> None:
        # Text towers stay: a text is embedded once, and its residual stream is float32 this way.
        towers = [self.unet, self.dino, *(clip.model.visual for clip in self.clips)]
        if self.arcface is not None:
            towers.append(self.arcface)
        for tower in towers:
            keep_products_in(PRECISIONS[self.precision], tower)
            if self.device.type == "cpu":
                use_plain_attention(tower)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Runs networks in the chosen precision; nothing at fp32."""
        return autocast(self.device, self.precision)

    def embed_text(self, clip: Clip, text: str) -> Tensor:
        """`clip.embed_text`, remembered for the texts used last."""
        key = (self.clips.index(clip), text)
        if key not in self._texts:
            with torch.no_grad(), self.autocast():
                self._texts[key] = clip.embed_text(text)
            if len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]


def load_models(preset: Preset, device: str = "cpu", precision: str = "fp32") -> Models:
    """Loads and freezes the networks that a preset names.

    Raises:
        WeightsError: weights are missing, altered, or of another layout.
        PresetError: an unknown name or precision.
    """
    # Imported here: the loaders pull in every architecture, which tests of small models never need.
    from dstc_engine.weights.load import load_arcface, load_clip, load_dino, load_unet

    return Models(
        unet=load_unet(preset.prior, preset.image_size),
        dino=load_dino(preset.dino, preset.dino_size, preset.dino_layer),
        clips=tuple(load_clip(name) for name in preset.clips),
        arcface=load_arcface(preset.arcface, preset.identity_crop)
        if preset.weight_identity
        else None,
        device=torch.device(device),
        precision=precision,
    )
