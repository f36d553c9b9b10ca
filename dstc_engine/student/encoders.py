"""What a student looks through: the preset's own ViT and CLIP models, frozen, without the prior.

B images, D width of the ViT, E width of a CLIP model's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.errors import PresetError
from dstc_engine.networks import networks_of
from dstc_engine.presets import Preset


@dataclass(eq=False)
class StudentEncoders:
    """The networks that describe looks and judge a student's images.

    Attributes:
        dino: structure and appearance. clips: texts; empty where no look has a prompt.
        device: where they live, in float32.
        sums: sha256 of their weights, by name.
        widths: D, and E of each CLIP model.
    """

    dino: Dino
    clips: tuple[Clip, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sums: Mapping[str, str] = field(default_factory=dict)
    widths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        for network in (self.dino, *self.clips):
            network.eval().requires_grad_(False).to(self.device)
        with torch.no_grad():
            blank = torch.zeros(1, 3, self.dino.size, self.dino.size, device=self.device)
            seen = [self.dino(blank).cls, *(clip.embed_image(blank) for clip in self.clips)]
        self.widths = tuple(each.shape[1] for each in seen)

    def appearance(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] to (B, D), class tokens of unit length."""
        return F.normalize(self.dino(images).cls.float(), dim=-1)

    def text(self, prompt: str) -> tuple[Tensor, ...]:
        """Of a prompt, one (E,) of unit length for each CLIP model."""
        return tuple(clip.embed_text(prompt) for clip in self.clips)


def load_encoders(preset: Preset, device: str = "cpu", prompts: bool = True) -> StudentEncoders:
    """Loads and freezes the preset's ViT, and its CLIP models where looks have prompts.

    Raises:
        PresetError: the preset has no loss that looks through the ViT.
        WeightsError: weights are missing or altered.
    """
    from dstc_engine.weights.fetch import upstream_sum
    from dstc_engine.weights.load import load_clip, load_dino
    from dstc_engine.weights.registry import find

    found = networks_of(preset)
    if "dino" not in found:
        raise PresetError(
            f"preset {preset.name!r}: no loss looks through the ViT; a student is judged by it: "
            "expected weight_structure, weight_contrast or weight_style_cls above 0"
        )
    clips = found.get("clips", ()) if prompts else ()
    return StudentEncoders(
        dino=load_dino(preset.dino, preset.dino_size, preset.dino_layer),
        clips=tuple(map(load_clip, clips)),
        device=torch.device(device),
        sums={name: upstream_sum(find(name)) for name in (preset.dino, *clips)},
    )
