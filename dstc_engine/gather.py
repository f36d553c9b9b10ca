"""Rows of the table that look through a network together, gathered into groups of one size.

S rows, G rows of a group. A network that only some rows need is shown those alone; always as many
at a time, since another batch size may choose other kernels: what a network says of a row must not
depend on how many neighbours need it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dstc_engine.transfer import upload

# With 8 crops, 4 rows are 32 pictures of 224 to 384 pixels: enough to fill a GPU, and RN50x16 keeps
# half a gigabyte of activations for each in bf16 until its gradient is taken.
_MOST = 4


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows of the table.

    Attributes:
        index: (G,) int64 on the device; the last row is repeated to fill the group up.
        count: rows that are not repeats, the first ones of `index`.
    """

    index: Tensor
    count: int

    @property
    def rows(self) -> Tensor:
        """(count,) int64, without the repeats."""
        return self.index[: self.count]


def group_size(slots: int) -> int:
    """Rows of a group in a table of this many slots.

    A quarter of the slots: repeats then cost an eighth of the table on average.
    """
    return max(1, min(slots // 4, _MOST))


def row_groups(rows: Sequence[int], size: int, device: torch.device) -> list[RowGroup]:
    """Splits rows, in their order, into groups of `size`; none for no rows."""
    groups = []
    for start in range(0, len(rows), size):
        chosen = list(rows[start : start + size])
        index = chosen + chosen[-1:] * (size - len(chosen))
        groups.append(RowGroup(upload(torch.tensor(index), device), len(chosen)))
    return groups
