"""The small CLIP, its sizes, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

import open_clip

from dstc_engine.errors import UserError
from dstc_engine.training.settings import TrainingSettings

MEAN: tuple[float, ...] = tuple(open_clip.OPENAI_DATASET_MEAN)
STD: tuple[float, ...] = tuple(open_clip.OPENAI_DATASET_STD)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Sizes, under the names of `open_clip.CLIP`."""

    embed_dim: int = 128
    vision_cfg: dict[str, int] = field(
        default_factory=lambda: {
            "image_size": 64,
            "patch_size": 8,
            "width": 192,
            "layers": 6,
            "head_width": 64,
        }
    )
    text_cfg: dict[str, int] = field(
        default_factory=lambda: {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 96,
            "heads": 4,
            "layers": 4,
        }
    )
    quick_gelu: bool = False

    def build(self, token_drop: float = 0.0) -> open_clip.CLIP:
        """A new network, random weights; in training it drops this share of its patch tokens."""
        vision = {**self.vision_cfg, "patch_dropout": token_drop}
        return open_clip.CLIP(
            self.embed_dim, vision, dict(self.text_cfg), quick_gelu=self.quick_gelu
        )


@dataclass(frozen=True, kw_only=True)
class CLIPTraining(TrainingSettings):
    """How the small CLIP is trained; `TrainingSettings` has the other fields.

    Attributes:
        batch: of all workers together, each of which contrasts its own part.
        companions: how many images of a batch repeat each subject in another style.
        token_drop: share of patch tokens dropped, until the last `whole` of the steps.
        recoloured: share of images in other colours; a fox stays a fox, an outline an outline.
        perturbed: images are moved by up to this Euclidean length in normalised units, so that the
            loss rises (`tiny64/perturbed.py`); 0 for not at all. Nearly doubles a step.
        every_style: train on the emoji styles beyond `CORE_STYLES`, too; val stays with these.
    """

    steps: int = 1000
    batch: int = 128
    peak_rate: float = 1e-3
    ema: float = 0.99
    companions: int = 1
    token_drop: float = 0.5
    whole: float = 0.2
    recoloured: float = 0.15
    perturbed: float = 0.0
    every_style: bool = False

    def __post_init__(self) -> None:
        if self.companions < 0:
            raise UserError(f"companions is {self.companions}; expected 0 or more")
