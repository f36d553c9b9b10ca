"""The lowest and the highest rows of each number, found part by part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dstc.reporting.parts import Place

Numbers = Mapping[str, npt.NDArray[np.float64]]
# Rows kept at either end of a number.
MOST = 5


class Extremes:
    """Takes parts as they come and keeps a few rows of each end; what is not finite counts not."""

    def __init__(self) -> None:
        self._lows: dict[str, list[tuple[float, Place]]] = defaultdict(list)
        self._highs: dict[str, list[tuple[float, Place]]] = defaultdict(list)

    def add(self, shard: int, ends: Mapping[str, list[tuple[float, int]]]) -> None:
        """Takes what `ends_of` found in a part."""
        for name, found in ends.items():
            placed = [(value, (shard, offset)) for value, offset in found]
            self._lows[name] = sorted(self._lows[name] + placed)[:MOST]
            self._highs[name] = sorted(self._highs[name] + placed, reverse=True)[:MOST]

    @property
    def names(self) -> list[str]:
        """Names of the numbers, in the order they came."""
        return list(self._lows)

    def lowest(self, name: str) -> list[Place]:
        """Places of the lowest rows, the lowest first."""
        return [place for _, place in self._lows[name]]

    def highest(self, name: str) -> list[Place]:
        """Places of the highest rows, the highest first."""
        return [place for _, place in self._highs[name]]


def ends_of(numbers: Numbers) -> dict[str, list[tuple[float, int]]]:
    """(value, row) of the lowest and the highest rows of a part, by name.

    Args:
        numbers: name -> (rows,), NaN where a row has none.
    """
    found = {}
    for name, values in numbers.items():
        known = np.flatnonzero(np.isfinite(values))
        order = known[np.argsort(values[known], kind="stable")]
        ends = {int(row) for row in (*order[:MOST], *order[-MOST:])}
        if ends:
            found[name] = [(float(values[row]), row) for row in sorted(ends)]
    return found
