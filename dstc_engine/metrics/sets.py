"""Distances of image sets from sets of real images, by features of a network.

Through Inception's pool3 features the four distances are FID, KID, and the SFID and CSFID of the
paper; through another network they are the same formulas and no number to compare with published
ones. N, M images, F features.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dstc_engine.metrics.bootstrap import DRAWS, quantiles

Array = npt.NDArray[np.float64]
Estimate = tuple[float, float, float]
"""Value, and the ends of its 95 % interval; NaN where there is none."""

# Of fewer images none of this says anything: the noise of a mean is larger than what it tells.
LEAST, LEAST_OF_CLASS = 50, 16
# Subsets of Binkowski et al. 2018, and how many of them.
_SUBSET, _SUBSETS = 1000, 100


class _Given(nn.Module):
    """torchmetrics takes a network; the features are there already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, given: Tensor) -> Tensor:
        return given


def frechet_distance(ours: Array, real: Array) -> Estimate:
    """Distance of Gaussians with means and covariances of (N, F) and (M, F); Heusel et al. 2017.

    Without an interval: it grows as a set repeats itself, as every bootstrap does.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(ours.shape[1]))
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(ours), real=False)
    return float(metric.compute()), np.nan, np.nan


def kernel_distance(ours: Array, real: Array) -> Estimate:
    """Squared maximum mean discrepancy of a cubic kernel; Binkowski et al. 2018.

    Mean over 100 subsets of 1,000 images, or of half of the smaller set; the interval is that of
    single subsets.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    subset = min(_SUBSET, min(len(ours), len(real)) // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its buffer: the features are here anyway
        metric = KernelInceptionDistance(
            feature=_Given(ours.shape[1]), subsets=_SUBSETS, subset_size=subset
        )
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(ours), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, deviation = (float(value) for value in metric.compute())
    return mean, mean - 1.96 * deviation, mean + 1.96 * deviation


def mean_distance(ours: Array, real: Array) -> Estimate:
    """Squared distance of the mean features; "SFID" in the paper, table 1."""
    found = float(np.square(ours.mean(axis=0) - real.mean(axis=0)).sum())
    draws = np.square(_drawn_means(ours, 0) - _drawn_means(real, 1)).sum(axis=1)
    return found, *_basic_interval(found, draws)


def class_mean_distance(
    ours: Array, real: Array, our_classes: Sequence[str | None], classes: Sequence[str | None]
) -> Estimate:
    """`mean_distance` within each class, mean over those that both have enough of; "CSFID".

    NaN where there is no such class.
    """
    a, b = np.array(our_classes, object), np.array(classes, object)
    counts = Counter(our_classes), Counter(classes)
    shared = sorted(
        name
        for name in set(our_classes) - {None}
        if name and min(count[name] for count in counts) >= LEAST_OF_CLASS
    )
    if not shared:
        return np.nan, np.nan, np.nan
    found = [mean_distance(ours[a == c], real[b == c])[0] for c in shared]
    draws = [
        np.square(_drawn_means(ours[a == c], n) - _drawn_means(real[b == c], -n)).sum(axis=1)
        for n, c in enumerate(shared, 1)
    ]
    mean = float(np.mean(found))
    return mean, *_basic_interval(mean, np.mean(draws, axis=0))


WITHOUT_CLASSES: dict[str, Callable[[Array, Array], Estimate]] = {
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    "mean_distance": mean_distance,
}


def _basic_interval(found: float, draws: Array) -> tuple[float, float]:
    """Mirrored at the value found, at least 0 (Davison & Hinkley 1997, equation 5.6).

    Squared distances of drawn means are larger than the one found, since drawing adds its noise.
    """
    low, high = quantiles(draws)
    return max(0.0, 2 * found - high), max(0.0, 2 * found - low)


def _drawn_means(features: Array, seed: int) -> Array:
    """(DRAWS, F) means of images drawn with replacement."""
    count = len(features)
    rng = np.random.default_rng([abs(seed), int(seed < 0)])
    shares = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    means: Array = shares @ features
    return means
