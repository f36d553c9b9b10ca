"""Where the face network looks, and what it sees there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def test_features_are_those_of_the_paper_computed_by_hand(generator: torch.Generator) -> None:
    """IR-SE50 once more, from its tensors' names (Deng et al. 2019; Hu et al. 2018)."""
    network = ArcFace().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
                if name.endswith("weight") and tensor.ndim == 1:
                    tensor.add_(0.8)  # norms and slopes near what training leaves
    # In float64: 24 units deep, float32 alone moves the last digits by 2e-5.
    network = network.double()
    portrait = torch.rand(2, 3, 256, 256, generator=generator).double() * 2 - 1
    with torch.no_grad():
        ours = network(portrait)
        theirs = _by_hand(network.state_dict(), portrait)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-10
    assert float((ours[0] - ours[1]).norm()) > 1e-3, "the images are told apart"


def _by_hand(state: dict[str, torch.Tensor], portrait: torch.Tensor) -> torch.Tensor:
    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scaled = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)

    def slope(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))

    def convolve(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    face = portrait[:, :, 35:223, 32:220]
    x = F.adaptive_avg_pool2d(face, 112)
    x = slope(norm(convolve(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
    for unit in range(24):
        body = f"body.{unit}"
        stride = 2 if unit in (0, 3, 7, 21) else 1
        short = x[:, :, ::stride, ::stride]
        if f"{body}.shortcut_layer.0.weight" in state:
            short = norm(
                convolve(x, f"{body}.shortcut_layer.0", stride), f"{body}.shortcut_layer.1"
            )
        r = convolve(norm(x, f"{body}.res_layer.0"), f"{body}.res_layer.1")
        r = convolve(slope(r, f"{body}.res_layer.2"), f"{body}.res_layer.3", stride)
        r = norm(r, f"{body}.res_layer.4")
        squeezed = r.mean((2, 3), keepdim=True)
        excited = convolve(
            convolve(squeezed, f"{body}.res_layer.5.fc1").relu(), f"{body}.res_layer.5.fc2"
        )
        x = short + r * torch.sigmoid(excited)
    flat = norm(x, "output_layer.0").flatten(1)
    dense = flat @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    features = norm(dense, "output_layer.4")
    return features / features.norm(dim=1, keepdim=True)
