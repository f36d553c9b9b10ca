"""One source of randomness per row, so that an image depends on its own seed and on nothing else.

All numbers are drawn on the CPU, also for a GPU: the same seed means the same noise everywhere.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dstc_engine.crops import CropRange, draw_crops
from dstc_engine.presets import Preset

# Streams of one seed. All others draw apart from the chain, so that another number of CLIP models,
# a mask or a class-conditional prior leaves the chain's noise as it is.
_CHAIN, _CROPS, _MASK, _CLASSES = 0, 1, 2, 3


def _generator(seed: int, stream: int) -> np.random.Generator:
    # Not torch's CPU generator: it keeps 32 bits of a seed, so two of 80,000 rows would likely
    # share their noise. SeedSequence hashes all 64 together with the stream.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream])))


class Noise(Protocol):
    """What a slot draws from; the parity tests replay recorded noise through it.

    Streams are apart: what one gives does not depend on draws from another, so that the engine may
    draw some ahead of time (`drawn_ahead`). None is drawn that the row will not use, unless its
    numbers end it early.
    """

    def chain(self) -> Tensor:
        """(3, H, W) normal: the start, each step's noise, and what goes back when resampling."""

    def mask(self) -> Tensor:
        """(3, H, W) normal: for the content outside a mask."""

    def crops(self) -> Tensor:
        """(N, 2, 3) affine maps of one step's crops for one CLIP model."""

    def prior_class(self, count: int) -> int:
        """Uniform in 0 .. count - 1: what a class-conditional prior is shown in one step."""


class RowNoise:
    """The noise of one row.

    Args:
        seed: of the row. size: pixels of the side. crops: what crops are drawn from.
    """

    def __init__(self, seed: int, size: int, crops: CropRange) -> None:
        self._shape = (3, size, size)
        self._ranges = crops
        self._chain = _generator(seed, _CHAIN)
        self._crops = _generator(seed, _CROPS)
        self._mask = _generator(seed, _MASK)
        self._classes = _generator(seed, _CLASSES)

    @classmethod
    def of(cls, seed: int, preset: Preset) -> RowNoise:
        """The noise of a row of this seed, with the preset's size and crops."""
        ranges = CropRange(
            count=preset.crops,
            rotation=preset.crop_rotation,
            scale=preset.crop_scale,
            ratio=preset.crop_ratio,
            flip=preset.crop_flip,
        )
        return cls(seed, preset.image_size, ranges)

    def chain(self) -> Tensor:
        return self._normal(self._chain)

    def mask(self) -> Tensor:
        return self._normal(self._mask)

    def crops(self) -> Tensor:
        return draw_crops(self._ranges, self._crops)

    def prior_class(self, count: int) -> int:
        return int(self._classes.integers(count))

    def _normal(self, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.standard_normal(self._shape, dtype=np.float32))
