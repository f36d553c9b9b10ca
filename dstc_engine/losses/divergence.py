"""Semantic divergence: early on, each step should move the class token away from the last one's.

The paper's "semantic style divergence loss" (acceleration strategy). S rows, D width.
"""

from __future__ import annotations

from torch import Tensor


def divergence_loss(cls: Tensor, previous_cls: Tensor) -> Tensor:
    """Minus the mean squared move of the class token since the previous guided step, (S,).

    Args:
        cls, previous_cls: (S, D); before the first step the previous one is the source's.
    """
    return -(cls - previous_cls).pow(2).mean(dim=1)
