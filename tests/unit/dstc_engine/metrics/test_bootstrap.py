"""Intervals of means, against the normal distribution's."""

from __future__ import annotations

import numpy as np
import pytest

from dstc_engine.metrics.bootstrap import interval


def test_intervals_are_those_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    mean, low, high = interval(np.append(values, np.nan))
    assert mean == pytest.approx(values.mean())
    # 1.96 standard errors either way.
    error = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.05)
    assert np.isnan(interval(np.array([np.nan]))).all()
