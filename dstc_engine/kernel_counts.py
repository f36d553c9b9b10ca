"""Counts what kernels do while they run: operations and bytes, by the phase that asked for them.

Operations are those of PyTorch's own table (`torch.utils.flop_counter`): convolutions, matrix
products, attention, each forward and backward. Bytes are what a kernel reads and writes: each
tensor that enters or leaves it, once. Kernels that only give a view of a tensor move nothing.
Compiled code is not seen; count with the eager networks, whose products are the same.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass
class Counted:
    """Operations and bytes of one phase.

    Attributes:
        flops: of its products; a multiplication with its addition counts as two.
        product_bytes: read and written by these products alone, weights included: what is left
            when everything between them is fused away.
        all_bytes: read and written by all kernels.
    """

    flops: int = 0
    product_bytes: int = 0
    all_bytes: int = 0


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, phase: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = phase
        self.counted: dict[str, Counted] = defaultdict(Counted)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        if not _is_view(function, given, made) and "empty" not in str(function):
            size = sum(map(_bytes, [*given, *made]))
            phase = self.counted[self.phase()]
            phase.all_bytes += size
            count = flop_registry.get(function._overloadpacket)
            if count is not None:
                phase.flops += int(count(*args, **(kwargs or {}), out_val=result))
                phase.product_bytes += size
        return result


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_view(function: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    # By storage rather than by name: reshapes give a view or a copy as they can.
    if function._schema.is_mutable or not made:
        return False
    storages = {tensor.untyped_storage()._cdata for tensor in given}
    return all(tensor.untyped_storage()._cdata in storages for tensor in made)


def _bytes(tensor: Tensor) -> int:
    # An expanded tensor is larger than what lies in memory.
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


@contextlib.contextmanager
def counting(phase: Callable[[], str] = lambda: "all") -> Iterator[dict[str, Counted]]:
    """Counts kernels that run inside the block, backward ones included.

    Args:
        phase: asked at each kernel.

    Returns:
        What was counted, by phase; filled when the block ends.
    """
    mode = _Counting(phase)
    with torch.no_grad(), mode:
        yield mode.counted


def total_flops(counted: Mapping[str, Counted]) -> int:
    """The operations of all phases."""
    return sum(phase.flops for phase in counted.values())
