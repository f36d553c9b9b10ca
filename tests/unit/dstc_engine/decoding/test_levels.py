"""Which range numbers are taken to be of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc_engine.decoding.levels import Extent, Range, extent_of, range_by_data
from dstc_engine.errors import ImageError


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, (0, 1)),
        (0.2, 0.3, (0, 1)),
        (-0.003, 1.004, (0, 1)),
        (-1, 1, (-1, 1)),
        (0, 255, (0, 255)),
        (30, 220, (0, 255)),
        (0, 65535, (0, 65535)),
        (0, 10, (0, 10)),
        (0, 4095, (0, 4095)),
        (-1024, 3071, (-1024, 3071)),
        (0, 1e30, (0, 1e30)),
        (7, 7, (0, 255)),
        (-5, -5, (-10, 0)),
    ],
)
def test_the_range_that_data_is_of(low: float, high: float, expected: tuple[float, float]) -> None:
    found = range_by_data(Extent(low, high, 0))
    assert (found.black, found.white) == expected


def test_what_is_no_number_is_counted_and_left_out() -> None:
    parts = [np.array([np.nan, 3.0]), np.array([np.inf, -2.0, 5.0]), np.array([np.nan])]
    assert extent_of(parts) == Extent(-2, 5, 3)
    with pytest.raises(ImageError, match="every value is NaN"):
        extent_of([np.array([np.nan])])


finite = st.floats(-1e30, 1e30)


@given(st.lists(finite, min_size=1, max_size=20))
@settings(deadline=None, derandomize=True, database=None, max_examples=200)
def test_levels_keep_the_order_of_values(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    found = range_by_data(extent_of([ordered])).levels(ordered)
    assert found.dtype == np.uint8 and (np.diff(found.astype(int)) >= 0).all()


def test_levels_round_and_nan_is_black() -> None:
    bytes_in_floats = (np.arange(256) / 255).astype(np.float32).astype(np.float64)
    assert Range(0, 1).levels(bytes_in_floats).tolist() == list(range(256))
    assert Range(0, 1).levels(np.array([np.nan, 2, -1])).tolist() == [0, 255, 0]
    assert Range(1, 0).levels(np.array([0.0, 1.0, 0.2])).tolist() == [255, 0, 204]
