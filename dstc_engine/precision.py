"""Precision: which weights are kept in half of it, what runs in it, and whether TF32 is taken.

In half precision networks run under PyTorch's autocast, which casts what enters products and
convolutions and leaves norms and sums in float32; losses, schedule and steps are outside of it,
always float32.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

PRECISIONS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    # As fp32, but for products and convolutions, which round what enters them to 10 bits.
    "tf32": torch.float32,
}

_PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Runs networks in the named precision; nothing at fp32 and tf32."""
    if not is_half(precision):
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def is_half(precision: str) -> bool:
    """Whether it is one of 16 bits."""
    return PRECISIONS[precision] is not torch.float32


def is_emulated(device: torch.device, precision: str) -> bool:
    """Whether a device has no instructions for products in this precision.

    Of CPUs that is so without AVX512 or AMX: rows in bf16 take about 10 times those in fp32.
    """
    if device.type != "cpu" or not is_half(precision):
        return False
    asked = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}[precision]
    return not getattr(torch.ops.mkldnn, asked)()


def use_tf32(precision: str) -> None:
    """Lets products and convolutions of GPUs take TF32 at tf32 alone; for this process.

    PyTorch's own default is TF32 in convolutions and strict products.
    """
    # By these names, since PyTorch's compiler reads them and refuses to after the newer ones
    # (`fp32_precision`) were set; they set both.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def keep_products_in(dtype: torch.dtype, network: nn.Module) -> None:
    """Casts the weights of products and convolutions once, in place.

    Autocast casts them at each use, since it remembers only weights that need a gradient. The
    products are the same to the last bit, and these weights take half the memory.
    """
    for module in network.modules():
        if isinstance(module, _PRODUCTS):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
