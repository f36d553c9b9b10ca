"""One minus the cosine of two faces."""

from __future__ import annotations

import torch

from dstc_engine.losses.identity import identity_loss


def test_closed_forms() -> None:
    same, other = torch.eye(4)[0], torch.eye(4)[1]
    faces, sources = torch.stack([same, same, same]), torch.stack([same, other, -same])
    assert identity_loss(faces, sources).tolist() == [0, 1, 2]
