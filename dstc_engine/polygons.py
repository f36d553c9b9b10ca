"""Polygons cut off at the edge of an image (Sutherland and Hodgman 1974)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def clip_polygon(points: Array, width: float, height: float) -> Array:
    """The part of a polygon that lies in 0 .. width, 0 .. height.

    Args:
        points: (N, 2) corners x, y in order; the last is joined to the first.

    Returns:
        (M, 2); M is 0 where nothing is inside. Parts that hang together only outside stay joined by
        lines along the edge, which enclose nothing.

    Example:
        >>> clip_polygon(np.array([[-2, 0], [2, 0], [2, 2], [-2, 2]], float), 4, 4).tolist()
        [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]
    """
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        points = _cut(points, axis, limit, sign)
    return points


def area(points: Array) -> float:
    """The area of a polygon, (N, 2); parts that run around the other way count less."""
    if len(points) < 3:
        return 0.0
    x, y = (points - points[0]).T  # far from the origin, the products would lose their last digits
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _cut(points: Array, axis: int, limit: float, sign: int) -> Array:
    kept: list[Array] = []
    for start, end in zip(np.roll(points, 1, axis=0), points, strict=True):
        before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
        if (before >= 0) != (after >= 0):
            crossing = start + (end - start) * before / (before - after)
            crossing[axis] = limit
            kept.append(crossing)
        if after >= 0:
            kept.append(end)
    return np.array(kept, np.float64).reshape(-1, 2)
