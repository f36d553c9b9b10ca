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

# With 8 crops, 4 rows are 32 images of 224 to 384 pixels, whose activations are all kept until
# their gradient is taken: what CLIP needs of a GPU's memory no longer grows with the slots.
_ROWS = 4


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows of the table that go through a network together.

    Attributes:
        members: the rows themselves, on the CPU.
        index: (G,) int64 on the device: the members, the last repeated to fill the group up.
    """

    members: tuple[int, ...]
    index: Tensor

    @property
    def count(self) -> int:
        """Rows that are not repeats."""
        return len(self.members)

    @property
    def rows(self) -> Tensor:
        """(count,) int64, without the repeats."""
        return self.index[: self.count]


def group_size(slots: int, device: torch.device) -> int:
    """Rows of a group in a table of this many slots.

    On a CPU a quarter of the slots, 4 at most: repeats then cost an eighth of the table on average.
    On a GPU 4, or all of fewer slots: a group is as many kernels whatever its rows, one row at a
    time 16,000 a step of four slots, and small ones are done before the next is asked for. The
    device and the number of slots alone decide: a row's arithmetic is the same whoever is beside.
    """
    if device.type == "cuda":
        return min(slots, _ROWS)
    return max(1, min(slots // 4, _ROWS))


def row_groups(rows: Sequence[int], size: int, device: torch.device) -> list[RowGroup]:
    """Splits rows, in their order, into groups of `size`; none for no rows."""
    groups = []
    for start in range(0, len(rows), size):
        members = tuple(rows[start : start + size])
        index = members + members[-1:] * (size - len(members))
        groups.append(RowGroup(members, upload(torch.tensor(index), device)))
    return groups
