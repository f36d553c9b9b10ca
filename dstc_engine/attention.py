"""Attention over tokens, by whichever way the device does fastest.

B images, N heads, T tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v; three of (B, N, T, D) to one.

    Fused kernels want a last stride of 1, the channels of a head side by side: without, PyTorch
    takes plain products in float32 and keeps (B, N, T, T). Forward and backward of 8 images in
    float32 on a CPU then take 32 ms instead of 19 (T = 256, D = 32, N = 3; one core of an AMD EPYC
    with AVX2, PyTorch 2.15; plain products 26).

    In bfloat16 on a CPU the fused backward takes 3 to 10 times as long as that of plain products
    (T = 257, D = 32: 19 against 5 ms; T = 65, D = 64: 20 against 2 ms; one core with avx512_bf16,
    PyTorch 2.15), so these are taken. A CPU without such instructions emulates them and is better
    off in float32 altogether (T = 256, D = 32, N = 3 as above: fused 72, plain 203 ms).
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v


class PlainAttention(nn.Module):
    """Self-attention with the weights of PyTorch's own module, through `attend`.

    Args:
        attention: whose weights are shared; batch first, one width for queries, keys and values.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(B, T, E) to (B, T, E), called as PyTorch's module is; q, k and v are the same tensor."""
        assert q is k and k is v and not need_weights and attn_mask is None
        batch, tokens, width = q.shape
        heads = self.attention.num_heads
        qkv = F.linear(q, self.attention.in_proj_weight, self.attention.in_proj_bias)
        parts = qkv.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = attend(*parts.unbind(0)).transpose(1, 2).reshape(batch, tokens, width)
        return self.attention.out_proj(mixed), None


def use_plain_attention(network: nn.Module) -> None:
    """Puts `attend` in the place of fused attention in timm's and open_clip's vision transformers.

    For CPUs in half precision. Text towers, whose attention is masked, are left as they are.
    """
    modules: list[Any] = list(network.modules())
    for module in modules:
        if isinstance(getattr(module, "fused_attn", None), bool):
            module.fused_attn = False  # timm has the plain way too
        if _is_vision_block(module):
            module.attn = PlainAttention(module.attn)


def _is_vision_block(module: nn.Module) -> bool:
    attention = getattr(module, "attn", None)
    return isinstance(attention, nn.MultiheadAttention) and attention.batch_first
