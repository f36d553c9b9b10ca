"""Structure: the self-similarity of keys, which tells how parts lie and forgets how they look.

The paper's "structure loss" (after Tumanyan et al. 2022). S rows, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def self_similarity(keys: Tensor) -> Tensor:
    """(S, T, D) keys to (S, T, T) cosines."""
    norms = keys.norm(dim=-1)
    scale = (norms[:, :, None] * norms[:, None, :]).clamp(min=1e-8)
    return torch.bmm(keys, keys.transpose(1, 2)) / scale


def structure_loss(keys: Tensor, source_similarity: Tensor) -> Tensor:
    """Mean squared change of self-similarity, (S,).

    Args:
        keys: (S, T, D) of z. source_similarity: (S, T, T) of the source.
    """
    return (self_similarity(keys) - source_similarity).pow(2).mean(dim=(1, 2))
