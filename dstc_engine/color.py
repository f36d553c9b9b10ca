"""Matches the colours of the finished image to the style image's.

Monge-Kantorovich linear transport (Pitie & Kokaram 2007): the linear map of RGB that carries one
mean and covariance to another's while moving colours least.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dstc_engine.request import ImageArray

Matrix = npt.NDArray[np.float64]


def match_colours(
    image: ImageArray, style: ImageArray, share: Matrix | None = None, *, stretch: bool = False
) -> ImageArray:
    """(H, W, 3) uint8 with the RGB mean and covariance of `style` (any size).

    Args:
        share: (H, W) by how much each pixel of `image` counts, not all 0; None counts all alike.
            The map that carries over those that count is applied to all.
        stretch: bring the least and the highest level of all three channels together to 0 and
            255, as the official code does; mean and covariance then are the style's up to that
            shift and scale. Without, what lies outside of 0-255 is clipped.
    """
    source = image.reshape(-1, 3).astype(np.float64)
    target = style.reshape(-1, 3).astype(np.float64)
    if share is None:
        mean, covariance = source.mean(0), _covariance(source)
    else:
        mean, covariance = _weighted(source, share.reshape(-1))
    moved = (source - mean) @ transport_map(covariance, _covariance(target))
    moved += target.mean(0)
    if stretch:
        moved = _stretched(moved, None if share is None else share.reshape(-1))
    levels: ImageArray = np.clip(np.rint(moved), 0, 255).astype(np.uint8)
    return levels.reshape(image.shape)


def _stretched(levels: Matrix, share: Matrix | None) -> Matrix:
    """(N, 3) from the range of the pixels that count to 0-255; as it is where there is no range.

    The official code also stretches both images before it matches them. That changes no result:
    the map it gives differs by a scale and a shift of all channels, which the last one takes out.
    """
    counted = levels if share is None else levels[share > 0]
    low, high = counted.min(), counted.max()
    return (levels - low) * (255 / (high - low)) if high - low > 1 else levels


def transport_map(source: Matrix, target: Matrix) -> Matrix:
    """The symmetric (3, 3) map T with T source T = target: A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2."""
    root = _power(source, 0.5)
    inverse_root = _power(source, -0.5)
    return inverse_root @ _power(root @ target @ root, 0.5) @ inverse_root


# An image of one colour has no covariance to invert; a hundredth of a level of spread in every
# direction changes no image that has one.
_SPREAD = 1e-4 * np.eye(3)


def _covariance(colors: Matrix) -> Matrix:
    return np.cov(colors, rowvar=False) + _SPREAD


def _weighted(colors: Matrix, share: Matrix) -> tuple[Matrix, Matrix]:
    """Mean (3,) and covariance (3, 3) of (N, 3) colours, each counting by its share (N,)."""
    weight = share / share.sum()
    mean = weight @ colors
    centerd = colors - mean
    return mean, (weight * centerd.T) @ centerd + _SPREAD


def _power(matrix: Matrix, exponent: float) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.clip(values, 1e-12, None) ** exponent) @ vectors.T
