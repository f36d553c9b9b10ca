"""The networks of a preset, loaded once and frozen."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dstc_engine.attention import use_plain_attention
from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.errors import PresetError
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.networks import networks_of
from dstc_engine.precision import (
    PRECISIONS,
    autocast,
    is_emulated,
    is_half,
    keep_products_in,
    use_tf32,
)
from dstc_engine.presets import Preset

log = logging.getLogger(__name__)

# Of a content at ViT-B/8 and 224 px, keys and self-similarity take 4.9 MB: room for 50 of them.
_FEATURE_BYTES = 256 << 20
# An embedding takes 2 to 4 KB, and costs 79 text passes: room for some 10,000 prompts. Apart from
# images, which would push them out.
_TEXT_BYTES = 64 << 20


@dataclass(eq=False)
class Models:
    """The networks of an engine. Parameters need no gradient; only images do.

    Attributes:
        unet: the prior. dino: structure and appearance, or None. clips: text, may be empty.
        arcface: identity of faces, or None. vgg: the vgg_* losses, or None.
        noise_schedule: what the prior was trained with.
        device: where all of them live. precision: "fp32", "tf32" (GPUs alone), "bf16" or "fp16";
            losses are float32. On a GPU it decides for the whole process whether TF32 is taken.
        features, texts: what the networks said of images and of texts; on the same device.
    """

    unet: UNet
    dino: Dino | None
    clips: tuple[Clip, ...]
    arcface: ArcFace | None = None
    vgg: Vgg | None = None
    noise_schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    features: FeatureCache = field(default_factory=lambda: FeatureCache(_FEATURE_BYTES), repr=False)
    texts: FeatureCache = field(default_factory=lambda: FeatureCache(_TEXT_BYTES), repr=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PresetError(f"precision is {self.precision!r}; expected {', '.join(PRECISIONS)}")
        if self.device.type == "cpu" and self.precision == "tf32":
            raise PresetError(
                "precision is 'tf32', which CPUs do not have; expected a GPU, or fp32"
            )
        if self.device.type == "cuda":
            use_tf32(self.precision)
        for network in (self.unet, self.dino, *self.clips, self.arcface, self.vgg):
            if network is not None:
                network.eval().requires_grad_(False).to(self.device)
        if is_emulated(self.device, self.precision):
            log.warning(
                "precision %s: this CPU has no instructions for it, and is several times slower in "
                "it than in fp32; give fp32, or a CPU with AVX512-BF16 or AMX",
                self.precision,
            )
        if is_half(self.precision):
            self._go_half()

    def _go_half(self) -> None:
        # Text towers stay: a text is embedded once, and its residual stream is float32 this way.
        towers = (clip.model.visual for clip in self.clips)
        for network in (self.unet, self.dino, *towers, self.arcface, self.vgg):
            if network is not None:
                keep_products_in(PRECISIONS[self.precision], network)
                if self.device.type == "cpu":
                    use_plain_attention(network)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Runs networks in the chosen precision; nothing at fp32 and tf32."""
        return autocast(self.device, self.precision)

    def embed_text(self, clip: Clip, text: str) -> Tensor:
        """`clip.embed_text`, remembered for the texts used last."""

        def look() -> tuple[Tensor]:
            with torch.no_grad(), self.autocast():
                return (clip.embed_text(text),)

        digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        return self.texts.get((self.clips.index(clip), digest), look)[0]


def load_models(preset: Preset, device: str = "cpu", precision: str = "fp32") -> Models:
    """Loads and freezes the networks that the preset's losses look through.

    Raises:
        WeightsError: weights are missing, altered, or of another layout.
        PresetError: an unknown name or precision.
    """
    # Imported here: the loaders pull in every architecture, which tests of small models never need.
    from dstc_engine.weights.load import (
        load_arcface,
        load_clip,
        load_dino,
        load_unet,
        load_vgg,
        noise_schedule_of,
    )

    makers: dict[str, Callable[[str], Any]] = {
        "prior": lambda name: load_unet(name, preset.image_size),
        "dino": lambda name: load_dino(name, preset.dino_size, preset.dino_layer),
        "clips": load_clip,
        "arcface": lambda name: load_arcface(name, preset.identity_crop),
        "vgg": lambda name: load_vgg(name, preset.vgg_size, vgg_layers(preset)),
    }
    return build_models(
        preset,
        makers,
        noise_schedule=noise_schedule_of(preset.prior),
        device=torch.device(device),
        precision=precision,
    )


def build_models(
    preset: Preset, makers: Mapping[str, Callable[[str], Any]], **others: Any
) -> Models:
    """The networks that the preset needs (`networks_of`), and none besides.

    Args:
        makers: what makes a network from its name, by the preset field that names it.
        others: attributes of `Models` that are no networks.
    """
    made = {
        field: tuple(makers[field](name) for name in names)
        for field, names in networks_of(preset).items()
    }
    (unet,) = made["prior"]
    dino, arcface, vgg = (made.get(field, (None,))[0] for field in ("dino", "arcface", "vgg"))
    return Models(unet, dino, made.get("clips", ()), arcface, vgg, **others)


def vgg_layers(preset: Preset) -> frozenset[str]:
    """Layers that the preset's vgg_* losses read, where they have a weight."""
    content = preset.vgg_content_layers if preset.guides("vgg_content") else ()
    gram = preset.vgg_gram_layers if preset.guides("vgg_gram") else ()
    return frozenset([*content, *gram])
