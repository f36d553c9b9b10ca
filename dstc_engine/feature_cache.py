"""Cache of network features of images and texts, for rows that share them.

A thousand rows in ten styles look at ten style images; the samples of one row at one content.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Features = tuple[Tensor, ...]


class FeatureCache:
    """Tensors by key, those used last, up to so many bytes; for one thread at a time.

    Keys hold digests rather than images and texts, and are not counted. Whoever gets tensors
    must not write into them.

    Args:
        limit: bytes of all tensors together; 0 remembers nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[Hashable, Features] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, look: Callable[[], Features]) -> Features:
        """The cached value of the key, else what `look` computes now; its errors are not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = tuple(map(_alone, look()))
        size = _bytes(found)
        if size > self.limit:
            return found  # it would push out all others, and itself
        self._kept[key] = found
        self.size += size
        while self.size > self.limit:
            _, dropped = self._kept.popitem(last=False)
            self.size -= _bytes(dropped)
        return found


def _alone(tensor: Tensor) -> Tensor:
    """The tensor without what it is a view of: one token would keep all tokens in memory."""
    is_view = tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone(memory_format=torch.contiguous_format) if is_view else tensor


def _bytes(tensors: Features) -> int:
    return sum(tensor.nbytes for tensor in tensors)
