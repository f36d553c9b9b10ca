"""Products in bf16 without its instructions: the same numbers as PyTorch's own, but for sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.rounded_products import RoundedProducts


def _pass(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        tokens = network(images).flatten(2).transpose(1, 2)
        mixed = tokens @ tokens.transpose(1, 2) @ tokens
        linear = functional.linear(mixed, torch.eye(mixed.shape[-1]))
    (gradient,) = torch.autograd.grad(linear.float().pow(2).mean(), images)
    return linear.detach(), gradient


def _error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def test_outputs_and_gradients_are_pytorchs_but_for_the_order_of_sums() -> None:
    torch.manual_seed(0)
    network, images = nn.Conv2d(8, 16, 3, padding=1), torch.randn(2, 8, 6, 6, requires_grad=True)
    theirs = _pass(network, images)
    with RoundedProducts():
        ours = _pass(network, images)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and _error(one, other) < 0.008  # one rounding is 0.004


def test_products_of_bf16_are_rounded_and_those_of_float32_are_not() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 40, 40)
    with RoundedProducts():
        exact, rounded = a @ b, a.bfloat16() @ b.bfloat16()
    assert torch.equal(exact, a @ b) and rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, (a.bfloat16().float() @ b.bfloat16().float()).bfloat16())
    assert _error(rounded, exact) > 0.001
