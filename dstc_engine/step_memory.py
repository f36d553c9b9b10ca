"""Bytes that a step takes on a GPU, for the named presets: counted beforehand, without a GPU.

`benchmarks/slot_memory.py` runs the networks of full size on fake CUDA tensors and writes
`step_memory.json` beside this file. It counts what tensors take; what the allocator and the
libraries need besides is not in it. `--slots auto` starts from it, `--dry-run` says it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import torch

from dstc_engine.guidance.row_groups import group_size
from dstc_engine.presets import PRESETS, Preset

FILE = "step_memory.json"
# Of a card's free memory; the rest is for fragments, and for kernels that want room to work in.
SHARE = 0.9
# A bound of ours, not of the card: rows in flight are done again when a machine is lost.
MOST = 64

# Precisions with the same bytes.
_ALIKE = {"fp16": "bf16", "tf32": "fp32"}
_GPU = torch.device("cuda")


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step by its slots S: fixed + each * S + in_group * G, for groups of G rows.

        >>> StepMemory(weights=3, fixed=4, each=2, in_group=1).peak(8)
        24

    Attributes:
        weights: of all networks. fixed: weights included, whatever the slots.
        each: of a slot. in_group: of a row in the groups that CLIP sees (`guidance.row_groups`).
    """

    weights: int
    fixed: int
    each: int
    in_group: int

    def peak(self, slots: int) -> int:
        """Bytes of a step of so many slots at most."""
        return self.fixed + self.each * slots + self.in_group * rows_in_group(slots)

    def slots_in(self, room: float) -> int:
        """Slots that so many bytes hold, weights included: 0 .. MOST."""
        return max((s for s in range(1, MOST + 1) if self.peak(s) <= room), default=0)

    def slots_on(self, card: int) -> int:
        """Slots that a card of so many bytes holds when nothing else is on it, as far as known."""
        return whole_groups(self.slots_in(SHARE * card))


def rows_in_group(slots: int) -> int:
    """Rows that CLIP sees at a time on a GPU."""
    return group_size(slots, _GPU)


def whole_groups(slots: int) -> int:
    """Whole groups of four, as the networks that see a part of the rows take them."""
    return slots - slots % 4 if slots >= 8 else slots


def step_memory(
    preset: Preset, precision: str, checkpointing: bool | str = False
) -> StepMemory | None:
    """The memory of a preset's step, of rows that have both a prompt and a style image.

    Args:
        precision: as `Models` has it. checkpointing: as `UNet` has it.

    Returns:
        None for a preset with any field changed, and for one that nobody counted.
    """
    if PRESETS.get(preset.name) != preset:
        return None
    return _counted().get(preset.name, {}).get(key_of(precision, checkpointing))


def key_of(precision: str, checkpointing: bool | str) -> str:
    """How the file names a precision, with checkpointing as `UNet` has it."""
    how = f" {checkpointing}" if isinstance(checkpointing, str) else ""
    again = f", checkpointing{how}" if checkpointing else ""
    return _ALIKE.get(precision, precision) + again


@cache
def _counted() -> Mapping[str, Mapping[str, StepMemory]]:
    text = resources.files("dstc_engine").joinpath(FILE).read_text()
    return {
        name: {key: StepMemory(**values) for key, values in found.items()}
        for name, found in json.loads(text).items()
    }
