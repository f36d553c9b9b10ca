"""Products in bf16 on a CPU without its instructions, as one that has them computes them.

Such an instruction multiplies numbers of 8 significant bits, sums in float32 and rounds the result
once. Products of such numbers are exact in float32, so a product of float32 copies, rounded at its
end, differs from it by the order of sums alone; and it takes as long as one in float32, where
PyTorch's own way on such a CPU takes some ten times as long. For images, never for speeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_PRODUCTS = {
    _ATEN.convolution.default,
    _ATEN.convolution_backward.default,
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
}


class RoundedProducts(TorchDispatchMode):
    """Within it, products and convolutions of bf16 tensors are computed in float32 and rounded.

    Example:
        with RoundedProducts(), torch.autocast("cpu", torch.bfloat16):
            network(images)
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        is_half = any(isinstance(a, Tensor) and a.dtype == torch.bfloat16 for a in args)
        if func not in _PRODUCTS or not is_half:
            return func(*args, **kwargs)
        found = func(*(_cast(a, torch.bfloat16, torch.float32) for a in args), **kwargs)
        if isinstance(found, Tensor):
            return found.bfloat16()
        return type(found)(_cast(each, torch.float32, torch.bfloat16) for each in found)


def _cast(value: Any, before: torch.dtype, after: torch.dtype) -> Any:
    return value.to(after) if isinstance(value, Tensor) and value.dtype == before else value
