"""Plain products against PyTorch's fused attention, and one module in the place of another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dstc_engine.attention import PlainAttention, attend, use_plain_attention
from tests.unit.dstc_engine import tiny


def heads(generator: torch.Generator, dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(2, 3, 17, 8, generator=generator).to(dtype) for _ in range(3)]


def test_bf16_on_a_cpu_is_as_near_to_float64_as_the_fused_kernel(
    generator: torch.Generator,
) -> None:
    q, k, v = heads(generator, torch.bfloat16)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())

    def error(mixed: torch.Tensor) -> float:
        return float((mixed.double() - exact).norm() / exact.norm())

    assert error(attend(q, k, v)) < max(2 * error(F.scaled_dot_product_attention(q, k, v)), 5e-3)


def test_float32_is_left_to_the_fused_kernel(generator: torch.Generator) -> None:
    q, k, v = heads(generator, torch.float32)
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_the_module_is_pytorchs_own_attention(generator: torch.Generator) -> None:
    attention = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    x = torch.randn(2, 9, 24, generator=generator)
    theirs, _ = attention(x, x, x, need_weights=False)
    ours, _ = PlainAttention(attention)(x, x, x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_transformer_keeps_its_features(kind: str, generator: torch.Generator) -> None:
    network: nn.Module = tiny.make_vit() if kind == "vit" else tiny.make_clip().model.visual
    x = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=generator)
    with torch.no_grad():
        before = network(x)
        use_plain_attention(network)
        torch.testing.assert_close(network(x), before)
    fused = [m for m in network.modules() if getattr(m, "fused_attn", False)]
    assert not fused, "timm's fused attention is left"
    assert kind == "vit" or any(isinstance(m, PlainAttention) for m in network.modules())
