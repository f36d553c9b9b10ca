"""Half precision: which weights are kept in it, and what runs in it.

Networks run under PyTorch's autocast, which casts what enters products and convolutions and leaves
norms and sums in float32; losses, schedule and steps are outside of it, always float32.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Runs networks in the named precision; nothing at fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def keep_products_in(dtype: torch.dtype, network: nn.Module) -> None:
    """Casts the weights of products and convolutions once, in place.

    Autocast casts them at each use, since it remembers only weights that need a gradient. The
    products are the same to the last bit, and these weights take half the memory.
    """
    for module in network.modules():
        if isinstance(module, _PRODUCTS):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
