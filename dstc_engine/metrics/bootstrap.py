"""Bootstrap confidence intervals of means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 1000


def interval(values: Array, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and the 2.5 and 97.5 % quantiles of means over rows drawn with replacement.

    Args:
        values: (N,), NaN where a row has none; all NaN gives three NaN.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    # One draw at a time: a million rows times a thousand draws would not fit into memory.
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    return float(values.mean()), *quantiles(np.array(means))


def quantiles(draws: Array) -> tuple[float, float]:
    """The ends of the interval that holds 95 % of (N,)."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
