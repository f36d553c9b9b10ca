"""How many slots a GPU has memory for: a line through measured steps, and a proof.

S slots. Memory grows by the same amount with each: activations of the UNet and of DINO, and a row's
conditions. CLIP, ArcFace and VGG see four rows at a time, so that they bend the line below S = 4;
the number it gives is tried out, and lowered until it fits.

Of the named presets the bytes are counted beforehand (`step_memory`): their number is tried first,
and where it fits, corrected by what was measured.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dstc_engine.device_memory import is_out_of_memory
from dstc_engine.engine import Engine
from dstc_engine.errors import DeviceMemoryError
from dstc_engine.graphs import forget_graphs
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from dstc_engine.step_memory import MOST, SHARE, StepMemory, step_memory, whole_groups

_GIB = 2**30


@dataclass(frozen=True)
class MemoryLine:
    """Bytes by slots.

    Attributes:
        fixed: at none, weights included. each: of a slot.
    """

    fixed: float
    each: float

    @classmethod
    def through(cls, peaks: dict[int, int]) -> MemoryLine:
        """The least-squares line through the bytes measured at two or more slot counts."""
        slots, measured = zip(*sorted(peaks.items()), strict=True)
        each, fixed = np.polyfit(np.asarray(slots, float), np.asarray(measured, float), 1)
        return cls(float(fixed), float(each))

    def slots_in(self, room: float) -> int:
        """Slots that so many bytes hold; `MOST` where the line does not rise."""
        if self.each <= 0:
            return MOST
        # A fit through exact numbers misses them by a last bit, which may not cost a slot.
        return int((room - self.fixed) / self.each + 1e-6)


def choose_slots(
    peak_of: Callable[[int], int], room: int, expected: StepMemory | None = None
) -> int:
    """The slots that fit.

    Args:
        peak_of: bytes that a step of so many slots takes at most, weights included; raises what
            `is_out_of_memory` knows where they do not fit.
        room: bytes that are there to be taken, weights included.
        expected: what steps should take, to start from; None starts from one slot.

    Raises:
        DeviceMemoryError: not even one slot fits.
    """
    room = int(SHARE * room)
    peaks: dict[int, int] = {}

    def fits(slots: int) -> bool:
        try:
            peaks[slots] = peak_of(slots)
        except Exception as error:  # of any library that allocates
            if not is_out_of_memory(error):
                raise
            return False
        return peaks[slots] <= room

    if expected is not None:
        first = whole_groups(expected.slots_in(room))
        if first and fits(first):
            # The allocator and the libraries take their share too: about as much at any slots.
            share = expected.peak(first) / peaks[first]
            more = whole_groups(expected.slots_in(share * room))
            return more if more > first and fits(more) else first
    for slots in (1, 2, 4):
        if not fits(slots):
            if slots == 1:
                needed = f"{peaks[1] / _GIB:.1f}" if 1 in peaks else "more"
                raise DeviceMemoryError(
                    f"one slot takes {needed} GiB; found {room / _GIB:.1f} GiB of memory to use "
                    f"({SHARE:.0%} of what is free)"
                )
            return slots // 2
    chosen, most = 4, MOST
    while True:
        # The two largest tell best how memory grows beyond them.
        line = MemoryLine.through(dict(sorted(peaks.items())[-2:]))
        slots = whole_groups(min(most, line.slots_in(room)))
        if slots <= chosen:
            return chosen
        if fits(slots):
            chosen = slots
        else:
            peaks.pop(slots, None)
            most = whole_groups(slots - 1)


def slots_that_fit(models: Models, preset: Preset, compiled: Models | None = None) -> int:
    """Measures on the models' own GPU, which nothing else may use meanwhile.

    Raises:
        DeviceMemoryError: not even one slot fits.
        ValueError: the models are not on a GPU.
    """
    if models.device.type != "cuda":
        raise ValueError(f"models are on {models.device}; expected a GPU")
    device = models.device
    _let_go()
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)

    def peak_of(slots: int) -> int:
        forget_graphs(compiled)
        _let_go()
        torch.cuda.reset_peak_memory_stats(device)
        take_steps(models, preset, slots, compiled)
        # What PyTorch holds on to, not what its tensors fill: others have no use of the rest.
        return torch.cuda.max_memory_reserved(device)

    expected = step_memory(preset, models.precision, models.unet.checkpointing)
    try:
        return choose_slots(peak_of, room, expected)
    finally:
        forget_graphs(compiled)
        _let_go()


def take_steps(models: Models, preset: Preset, slots: int, compiled: Models | None = None) -> None:
    """Two steps of a full table of rows that need every network of the preset."""
    engine = Engine(models, preset, slots, compiled=compiled)
    for number in range(slots):
        engine.add(heaviest_row(preset, number))
    engine.step()
    engine.step()


def heaviest_row(preset: Preset, seed: int = 0) -> TranslationRequest:
    """A row with a prompt and a style image, of random pixels."""
    side = preset.image_size
    content, style = np.random.default_rng(seed).integers(0, 256, (2, side, side, 3), np.uint8)
    return TranslationRequest(
        id=f"measured-{seed}", content=content, seed=seed, style=style, prompt="a drawing"
    )


def _let_go() -> None:
    gc.collect()
    torch.cuda.empty_cache()
