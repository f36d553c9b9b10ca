"""Chooses a gate's limit, and counts what a limit catches: numbers in, numbers out.

N images; `losses` (N,) is NaN where a loss was not computed, `bad` (N,) is what a judge says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Of images that a judge calls good: each gate may cost this many needless tries.
MOST_GOOD_FLAGGED = 0.1
# Share of pairs (bad, good) in which the bad one has the higher loss; 0.5 is a coin.
LEAST_AUC = 0.6
# Of bad images and of good ones; fewer say nothing about a limit.
LEAST_OF_A_KIND = 5


@dataclass(frozen=True)
class Learned:
    """One gate's limit.

    Attributes:
        auc: share of pairs in which the bad image has the higher loss; NaN without pairs.
        limit: None where no gate should be set. why_not: then, in a few words.
    """

    auc: float
    limit: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Caught:
    """What flags do to images, as shares; NaN where there is none to take a share of.

    Attributes:
        bad: of the bad ones that are flagged. good: of the good ones. precision: of the flagged
            ones that are bad. flagged, images: counts.
    """

    bad: float
    good: float
    precision: float
    flagged: int
    images: int


def auc(losses: Array, bad: Flags) -> float:
    """Share of pairs (bad, good) in which the bad one has the higher loss; ties count half."""
    difference = losses[bad][:, None] - losses[~bad][None, :]
    if not difference.size:
        return float("nan")
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def learn(losses: Array, bad: Flags) -> Learned:
    """The limit of highest Youden's J: share of bad ones flagged less share of good ones.

    Of those that flag at most `MOST_GOOD_FLAGGED` of the good ones; None where the loss tells too
    little.
    """
    has = ~np.isnan(losses)
    losses, bad = losses[has], bad[has]
    found = auc(losses, bad)
    if min(bad.sum(), (~bad).sum()) < LEAST_OF_A_KIND:
        return Learned(found, None, f"too few: {bad.sum()} bad, {(~bad).sum()} good")
    if found < LEAST_AUC:
        return Learned(found, None, "none: does not tell bad from good")
    steps = np.unique(losses)
    # Between neighbours, and told with as many digits as anyone will type.
    limits = [float(f"{limit:.3g}") for limit in (steps[1:] + steps[:-1]) / 2]
    caught = {limit: catch(losses > limit, bad) for limit in limits}
    allowed = [limit for limit in limits if caught[limit].good <= MOST_GOOD_FLAGGED]
    best = max(allowed, key=lambda limit: caught[limit].bad - caught[limit].good, default=None)
    if best is None or caught[best].bad <= caught[best].good:
        return Learned(found, None, f"none: any flags over {MOST_GOOD_FLAGGED:.0%} of the good")
    return Learned(found, best)


def catch(flagged: Flags, bad: Flags) -> Caught:
    """What flags do."""

    def share(of: Flags, among: Flags) -> float:
        return float(of[among].mean()) if among.any() else float("nan")

    return Caught(
        bad=share(flagged, bad),
        good=share(flagged, ~bad),
        precision=share(bad, flagged),
        flagged=int(flagged.sum()),
        images=len(flagged),
    )
