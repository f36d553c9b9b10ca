"""Where the face network looks; its weights are too large for a unit test."""

from __future__ import annotations

import torch
from torch import nn

from dstc_engine.encoders.arcface import ArcFace


def test_it_looks_at_the_face_alone(generator: torch.Generator) -> None:
    with torch.device("meta"):
        network = ArcFace()
    network.input_layer, network.body = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    network.output_layer = nn.Flatten()  # type: ignore[assignment]
    portrait = torch.rand(1, 3, 256, 256, generator=generator)
    seen = network(portrait)
    assert seen.shape == (1, 3 * 112 * 112)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(1))
    around = portrait.clone()
    around[:, :, :35] = around[:, :, 223:] = -1
    around[:, :, :, :32] = around[:, :, :, 220:] = -1
    assert torch.equal(network(around), seen)
    for row, column in ((35, 32), (222, 219)):
        inside = portrait.clone()
        inside[:, :, row, column] += 1
        assert not torch.equal(network(inside), seen)
