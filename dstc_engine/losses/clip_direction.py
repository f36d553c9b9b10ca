"""Text guidance: the embedding of z's crops should point towards the target.

The paper's "style loss", text-guided. S rows, N crops, E width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def clip_target(
    target_text: Tensor,
    source_text: Tensor,
    source_image: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Where the embedding should point, (E,), unit length.

    Args:
        target_text, source_text, source_image: (E,) unit embeddings; zeros leave a part out.
        weights: of the three; the source text's is subtracted (official: 1.0, 0.4, 0.2).
    """
    towards, away, keep = weights
    return F.normalize(towards * target_text - away * source_text + keep * source_image, dim=-1)


def clip_direction_loss(crops: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine to the target, mean over crops, for one CLIP model, (S,).

    Args:
        crops: (S, N, E) unit embeddings; their mean is not made unit length again.
        target: (S, E) unit.
    """
    return -(crops.mean(dim=1) * target).sum(dim=1)
