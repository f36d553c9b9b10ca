"""Structure: each key should be nearer to the source's key of its own place than to all others.

The paper's "structure loss", its contrastive part (after Park et al. 2020, "Contrastive Learning
for Unpaired Image-to-Image Translation"). S rows, T tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrast_loss(keys: Tensor, source_keys: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of finding one's own place among all places of the source, (S,).

    The original lists the positive apart and fills its place among the negatives with a cosine of
    -10. At a temperature of 0.07 that entry adds exp(-143), zero in float32: the plain softmax over
    T places is the same number.

    Args:
        keys, source_keys: (S, T, D). temperature: divides the cosines.
    """
    cosines = torch.bmm(F.normalize(keys, dim=-1), F.normalize(source_keys, dim=-1).transpose(1, 2))
    log_share = F.log_softmax(cosines / temperature, dim=-1)
    return -log_share.diagonal(dim1=1, dim2=2).mean(dim=1)
