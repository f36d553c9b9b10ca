"""What the benchmark measures of each picture, and how sure its means are.

Structure and style are judged by what guidance never sees: silhouettes, and a classifier of colours
and edges. The ViT's structure distance stands beside them, which guidance does see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from benchmarks.emoji.rows import BenchmarkRow
from benchmarks.emoji.style_classifier import StyleClassifier
from benchmarks.variants import psnr
from dstc_engine import image
from dstc_engine.encoders.dino import Dino
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.request import Picture

Array = npt.NDArray[np.float64]

# Of the least channel, in levels of 255: paler pixels are the white that drawings stand on.
_WHITE = 240
# Silhouettes of two vendors' drawings of one subject overlap by 0.77, of two subjects by 0.57: what
# stays above has kept its shape.
KEPT = 0.8
MEASURES = ("style", "silhouette", "both", "structure", "PSNR", "SSIM")


def silhouette(picture: Picture) -> npt.NDArray[np.bool_]:
    """(H, W), true within the outline: all that white cannot reach from the border."""
    paper = Image.fromarray(((picture.min(axis=2) >= _WHITE) * 255).astype(np.uint8))
    wide = Image.new("L", (paper.width + 2, paper.height + 2), 255)
    wide.paste(paper, (1, 1))
    ImageDraw.floodfill(wide, (0, 0), 128)
    return np.asarray(wide)[1:-1, 1:-1] != 128


def overlap(ours: Picture, theirs: Picture) -> float:
    """Intersection over union of the silhouettes, 0 .. 1; 1 where both are empty."""
    a, b = silhouette(ours), silhouette(theirs)
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def ssim(ours: Picture, theirs: Picture) -> float:
    """Structural similarity, at most 1, mean over pixels and channels.

    Wang et al. 2004: a Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03; windows that
    lie within the picture.
    """
    x, y = (
        torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[:, None] for p in (ours, theirs)
    )
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    window = (line[:, None] * line)[None, None]

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, window)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(found.mean())


@torch.no_grad()
def measure(
    rows: Sequence[BenchmarkRow],
    pictures: Sequence[Picture],
    classifier: StyleClassifier,
    dino: Dino,
) -> dict[str, Array]:
    """Each of MEASURES, one value a row; NaN where it needs a truth and there is none.

    style: the classifier takes it for the target's. silhouette: overlap with the content's. both:
    style right, and an overlap of KEPT or more. structure: distance of the ViT's key
    self-similarity to the content's (Tumanyan et al. 2022). PSNR, SSIM: to the truth.
    """
    predicted = classifier.predict(pictures)
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for row, picture, style in zip(rows, pictures, predicted, strict=True):
        content, truth = row.request.content, row.truth
        shape = overlap(picture, content)
        keys = dino(torch.stack([image.to_tensor(p) for p in (picture, content)])).keys
        found["style"].append(float(style == row.target))
        found["silhouette"].append(shape)
        found["both"].append(float(style == row.target and shape >= KEPT))
        found["structure"].append(float(structure_loss(keys[:1], self_similarity(keys[1:]))))
        # Equal pictures would make every mean infinite.
        found["PSNR"].append(min(psnr(picture, truth), 60.0) if truth is not None else np.nan)
        found["SSIM"].append(ssim(picture, truth) if truth is not None else np.nan)
    return {name: np.array(values) for name, values in found.items()}


def interval(values: Array, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the 2.5 and 97.5 % quantiles of means over rows drawn with replacement."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
