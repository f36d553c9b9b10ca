"""Metrics of the emoji benchmark, and confidence intervals of their means.

Structure and style are judged by what guidance never sees: silhouettes, and a classifier of colours
and edges. The ViT's structure distance stands beside them, which guidance does see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from dstc_engine.encoders.dino import Dino
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.metrics.pixels import psnr, ssim
from dstc_engine.metrics.segmentation import mean_iou, silhouette
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.request import ImageArray
from dstc_engine.tensors import to_tensor
from tiny64.quality.rows import BenchmarkRow

Array = npt.NDArray[np.float64]

# Silhouettes of two vendors' drawings of one subject overlap by 0.77, of two subjects by 0.57: what
# stays above has kept its shape.
KEPT = 0.8
MEASURES = ("style", "silhouette", "both", "structure", "PSNR", "SSIM")


def overlap(ours: ImageArray, theirs: ImageArray) -> float:
    """Intersection over union of the silhouettes, 0 .. 1; 1 where both are empty."""
    a, b = (torch.from_numpy(silhouette(image)) for image in (ours, theirs))
    return mean_iou(a, b, ignored=0)


@torch.no_grad()
def measure(
    rows: Sequence[BenchmarkRow],
    images: Sequence[ImageArray],
    classifier: StyleClassifier,
    dino: Dino,
) -> dict[str, Array]:
    """Each of MEASURES, one value a row; NaN where it needs a truth and there is none.

    style: the classifier takes it for the target's. silhouette: overlap with the content's. both:
    style right, and an overlap of KEPT or more. structure: distance of the ViT's key
    self-similarity to the content's (Tumanyan et al. 2022). PSNR, SSIM: to the truth.
    """
    predicted = classifier.predict(images)
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for row, image, style in zip(rows, images, predicted, strict=True):
        content, truth = row.request.content, row.truth
        shape = overlap(image, content)
        keys = dino(torch.stack([to_tensor(p) for p in (image, content)])).keys
        found["style"].append(float(style == row.target))
        found["silhouette"].append(shape)
        found["both"].append(float(style == row.target and shape >= KEPT))
        found["structure"].append(float(structure_loss(keys[:1], self_similarity(keys[1:]))))
        found["PSNR"].append(psnr(image, truth) if truth is not None else np.nan)
        found["SSIM"].append(ssim(image, truth) if truth is not None else np.nan)
    return {name: np.array(values) for name, values in found.items()}
