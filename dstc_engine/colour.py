"""Matches the colours of the finished picture to the style picture's.

Monge-Kantorovich linear transport (Pitie & Kokaram 2007): the linear map of RGB that carries one
mean and covariance to another's while moving colours least.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dstc_engine.request import Picture

Matrix = npt.NDArray[np.float64]


def match_colours(picture: Picture, style: Picture) -> Picture:
    """(H, W, 3) uint8 with the RGB mean and covariance of `style` (any size), clipped to 0-255."""
    source = picture.reshape(-1, 3).astype(np.float64)
    target = style.reshape(-1, 3).astype(np.float64)
    moved = (source - source.mean(0)) @ transport_map(_covariance(source), _covariance(target))
    levels: Picture = np.clip(np.rint(moved + target.mean(0)), 0, 255).astype(np.uint8)
    return levels.reshape(picture.shape)


def transport_map(source: Matrix, target: Matrix) -> Matrix:
    """The symmetric (3, 3) map T with T source T = target: A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2."""
    root = _power(source, 0.5)
    inverse_root = _power(source, -0.5)
    return inverse_root @ _power(root @ target @ root, 0.5) @ inverse_root


def _covariance(colours: Matrix) -> Matrix:
    # A picture of one colour has no covariance to invert; a hundredth of a level of spread in every
    # direction changes no picture that has one.
    return np.cov(colours, rowvar=False) + 1e-4 * np.eye(3)


def _power(matrix: Matrix, exponent: float) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.clip(values, 1e-12, None) ** exponent) @ vectors.T
