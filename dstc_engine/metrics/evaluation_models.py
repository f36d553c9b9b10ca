"""Evaluation models: quality metrics of finished images (structure, style, prompt, identity).

`features` shows images to the networks, many at once, and caches what they give; `compare` makes
metrics of it. Images are (H, W, 3) uint8 of one size. B images, T tokens, D width of the ViT,
E width of CLIP, F features of the network that sets are compared by.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.losses.structure import self_similarity
from dstc_engine.metrics.segmentation import Segmentation, mean_iou
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.request import ImageArray
from dstc_engine.tensors import to_tensor

# Images that a network sees at once.
BATCH = 16
# ViT-B/8 says 2.5 MB of an image: the shared ones of a hundred rows.
_REMEMBERED, _REMEMBERED_TEXTS = 256 << 20, 16 << 20

ImageFeatures = Mapping[str, Tensor]
"""Features of one image: of `similarity` (T, T), `cls` (D,), `clip` (E,), `face` (512,),
`labels` (H, W), `style` () and `set` (F,) those that some network gives."""


@dataclass(frozen=True, eq=False)
class EvaluationModels:
    """The networks that measure images; each may be None, and its metrics are then left out.

    Attributes:
        dino, clip, arcface: networks as guidance uses them.
        segmentation: tells what is where. lpips: distance of two (1, 3, H, W) in [-1, 1].
        classifier: tells the style.
        set_features: (B, 3, H, W) in [-1, 1] to (B, F); the ViT's class token where there is none.
        device: of the networks.
    """

    dino: Dino | None = None
    clip: Clip | None = None
    arcface: ArcFace | None = None
    segmentation: Segmentation | None = None
    lpips: Callable[[Tensor, Tensor], float] | None = None
    classifier: StyleClassifier | None = None
    set_features: Callable[[Tensor], Tensor] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _images: FeatureCache = field(default_factory=lambda: FeatureCache(_REMEMBERED), repr=False)
    # A text costs 79 passes.
    _texts: FeatureCache = field(
        default_factory=lambda: FeatureCache(_REMEMBERED_TEXTS), repr=False
    )

    @torch.no_grad()
    def features(self, images: Sequence[ImageArray]) -> list[ImageFeatures]:
        """The features of each image; those of equal images are computed once."""
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        found: dict[bytes, ImageFeatures] = {}
        missing: dict[bytes, ImageArray] = {}
        for digest, image in zip(digests, images, strict=True):
            if digest in self._images:
                found[digest] = self._cached(digest, {})
            else:
                missing[digest] = image
        names = list(missing)
        for start in range(0, len(names), BATCH):
            some = names[start : start + BATCH]
            extracted = self._extract([missing[name] for name in some])
            found |= {n: self._cached(n, one) for n, one in zip(some, extracted, strict=True)}
        return [found[digest] for digest in digests]

    @torch.no_grad()
    def describe(self, images: Sequence[ImageArray]) -> Tensor | None:
        """Features that sets are compared by, (B, F), and no others; None without their network."""
        batch = _tensor(images).to(self.device)
        if self.set_features is not None:
            return self.set_features(batch)
        return None if self.dino is None else self.dino(batch).cls

    @torch.no_grad()
    def compare(
        self,
        result: ImageFeatures,
        content: ImageFeatures,
        style: ImageFeatures | None = None,
        prompt: str | None = None,
        source_prompt: str | None = None,
        target_style: str | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, float]:
        """Metrics of a result; NaN where no model measures it, or the row has no such part.

        structure_distance: mean squared change of the ViT's key self-similarity, result against
        content (Tumanyan et al. 2022). mask_iou: overlap of what is where in content and result.
        identity: cosine of the faces. style_similarity: cosine of class tokens, result and style.
        style_right: 1 where the classifier takes the result for the target style, else 0.
        clip_score: cosine of result and prompt, mean over the templates' embedding. clip_direction:
        cosine of (result - content) and (prompt - source prompt) (Gal et al. 2022).

        Args:
            labels: (H, W) int, what is where in the content; by default as the segmentation has it.
        """
        found = dict.fromkeys(
            ("structure_distance", "mask_iou", "identity", "style_similarity")
            + ("style_right", "clip_score", "clip_direction"),
            math.nan,
        )
        if self.dino is not None:
            change = result["similarity"] - content["similarity"]
            found["structure_distance"] = float(change.square().mean())
            if style is not None:
                found["style_similarity"] = _cosine(result["cls"], style["cls"])
        if self.segmentation is not None:
            theirs = content["labels"] if labels is None else labels
            found["mask_iou"] = mean_iou(result["labels"], theirs, self.segmentation.ignored)
        if self.arcface is not None:
            found["identity"] = _cosine(result["face"], content["face"])
        if self.classifier is not None and target_style in self.classifier.styles:
            predicted = self.classifier.styles[int(result["style"])]
            found["style_right"] = float(predicted == target_style)
        if self.clip is not None and prompt is not None:
            text = self._text(prompt)
            found["clip_score"] = _cosine(result["clip"], text)
            if source_prompt is not None:
                moved = result["clip"] - content["clip"]
                found["clip_direction"] = _cosine(moved, text - self._text(source_prompt))
        return found

    @torch.no_grad()
    def perceptual_distance(self, ours: ImageArray, theirs: ImageArray) -> float:
        """LPIPS of two images (Zhang et al. 2018); NaN without its network."""
        if self.lpips is None:
            return math.nan
        return self.lpips(*(_tensor([image]).to(self.device) for image in (ours, theirs)))

    def _extract(self, images: Sequence[ImageArray]) -> list[dict[str, Tensor]]:
        batch = _tensor(images).to(self.device)
        seen: dict[str, Tensor] = {}
        if self.dino is not None:
            features = self.dino(batch)
            seen |= {"similarity": self_similarity(features.keys), "cls": features.cls}
        if self.clip is not None:
            seen["clip"] = self.clip.embed_image(batch)
        if self.arcface is not None:
            seen["face"] = self.arcface(batch)
        if self.segmentation is not None:
            seen["labels"] = self.segmentation.labels(images, batch)
        if self.classifier is not None:
            shares = self.classifier.probabilities(images)
            seen["style"] = torch.from_numpy(shares.argmax(axis=1))
        if self.set_features is not None:
            seen["set"] = self.set_features(batch)
        elif self.dino is not None:
            seen["set"] = seen["cls"]
        return [{name: values[n] for name, values in seen.items()} for n in range(len(images))]

    def _cached(self, digest: bytes, features: ImageFeatures) -> ImageFeatures:
        """From the cache, or what was computed now; its parts always come in one order."""
        values = self._images.get(digest, lambda: tuple(features.values()))
        return dict(zip(self._parts, values, strict=True))

    @property
    def _parts(self) -> list[str]:
        parts = {
            "similarity": self.dino,
            "cls": self.dino,
            "clip": self.clip,
            "face": self.arcface,
            "labels": self.segmentation,
            "style": self.classifier,
            "set": self.set_features or self.dino,
        }
        return [name for name, network in parts.items() if network is not None]

    def _text(self, text: str) -> Tensor:
        clip = self.clip
        assert clip is not None
        return self._texts.get(text, lambda: (clip.embed_text(text),))[0]


def _tensor(images: Sequence[ImageArray]) -> Tensor:
    return torch.stack([to_tensor(image) for image in images])


def _cosine(a: Tensor, b: Tensor) -> float:
    """NaN where either has no direction, as an image that has not moved."""
    if not a.any() or not b.any():
        return math.nan
    return float(F.cosine_similarity(a, b, dim=0))
