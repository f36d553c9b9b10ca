"""What networks say of a finished picture: structure, appearance, agreement with the prompt.

Pictures are (H, W, 3) uint8 of one size. T tokens, D width of the ViT, E width of CLIP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine import image
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino, DinoFeatures
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.request import Picture

FEATURE_METRICS = ("structure_distance", "style_similarity", "clip_score", "clip_direction")


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that look; either may be None, and what it would tell is then left out."""

    dino: Dino | None
    clip: Clip | None
    device: torch.device
    # A text costs 79 passes, and a row asks for its own three times.
    texts: FeatureCache = field(default_factory=lambda: FeatureCache(16 << 20), repr=False)

    @torch.no_grad()
    def measure(
        self,
        result: Picture,
        content: Picture,
        style: Picture | None,
        prompt: str | None,
        source_prompt: str | None,
    ) -> dict[str, float]:
        """NaN where the row has no such part.

        structure_distance: mean squared change of the ViT's key self-similarity, result against
        content (Tumanyan et al. 2022). style_similarity: cosine of class tokens, result and style.
        clip_score: cosine of result and prompt, mean over the templates' embedding. clip_direction:
        cosine of (result - content) and (prompt - source prompt) (Gal et al. 2022).
        """
        found = dict.fromkeys(FEATURE_METRICS, math.nan)
        if self.dino is not None:
            seen, of_content = self._look(self.dino, result), self._look(self.dino, content)
            target = self_similarity(of_content.keys)
            found["structure_distance"] = float(structure_loss(seen.keys, target))
            if style is not None:
                of_style = self._look(self.dino, style)
                found["style_similarity"] = _cosine(seen.cls[0], of_style.cls[0])
        if self.clip is not None and prompt is not None:
            ours, text = self._embed(result), self._text(prompt)
            found["clip_score"] = _cosine(ours, text)
            if source_prompt is not None:
                moved = ours - self._embed(content)
                meant = text - self._text(source_prompt)
                found["clip_direction"] = _cosine(moved, meant)
        return found

    def _look(self, dino: Dino, picture: Picture) -> DinoFeatures:
        features: DinoFeatures = dino(self._tensor(picture))
        return features

    def _text(self, text: str) -> Tensor:
        clip = self.clip
        assert clip is not None
        return self.texts.get(text, lambda: (clip.embed_text(text),))[0]

    def _embed(self, picture: Picture) -> Tensor:
        assert self.clip is not None
        return self.clip.embed_picture(self._tensor(picture))[0]

    def _tensor(self, picture: Picture) -> Tensor:
        return image.to_tensor(picture)[None].to(self.device)


def _cosine(a: Tensor, b: Tensor) -> float:
    """NaN where either has no direction, as a picture that has not moved."""
    if not a.any() or not b.any():
        return math.nan
    return float(F.cosine_similarity(a, b, dim=0))
