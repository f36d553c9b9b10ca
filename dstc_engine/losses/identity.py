"""Identity: the face should stay the same person's (faces prior alone). Method section 3."""

from __future__ import annotations

from torch import Tensor


def identity_loss(face: Tensor, source_face: Tensor) -> Tensor:
    """One minus the cosine of unit ArcFace embeddings (S, 512), (S,)."""
    return 1 - (face * source_face).sum(dim=1)
