"""A row's noise on the device, part of it drawn and uploaded before it is asked for.

M CLIP models, N crops, H x W pixels. A GPU that has done its step would wait for the next one's
noise; drawn while it is still at work, that costs nobody time. The values are the same: each stream
gives its draws in one order, whatever they are then used for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from dstc_engine.noise import Noise
from dstc_engine.transfer import upload


class DrawnAhead:
    """The streams of one row; what was drawn ahead is thrown away with it.

    Args:
        noise: of the row. device: where draws are used. clips: M.
    """

    def __init__(self, noise: Noise, device: torch.device, clips: int) -> None:
        self.noise = noise
        self._device, self._clips = device, clips
        self._chain: deque[Tensor] = deque()
        self._mask: deque[Tensor] = deque()
        self._crops: deque[Tensor] = deque()

    def chain(self) -> Tensor:
        """(3, H, W), the next of `Noise.chain`."""
        return self._next(self._chain, self.noise.chain)

    def mask(self) -> Tensor:
        """(3, H, W), the next of `Noise.mask`."""
        return self._next(self._mask, self.noise.mask)

    def crops(self) -> Tensor:
        """(M, N, 2, 3), one of `Noise.crops` for each CLIP model."""
        return self._next(self._crops, self._draw_crops)

    def prior_class(self, count: int) -> int:
        """The next of `Noise.prior_class`: one number, which takes no time to draw."""
        return self.noise.prior_class(count)

    def look_ahead(self, chain: int = 0, mask: int = 0, crops: int = 0) -> None:
        """Draws until so many of each stream lie ready."""
        self._fill(self._chain, chain, self.noise.chain)
        self._fill(self._mask, mask, self.noise.mask)
        self._fill(self._crops, crops, self._draw_crops)

    def _draw_crops(self) -> Tensor:
        return torch.stack([self.noise.crops() for _ in range(self._clips)])

    def _next(self, ready: deque[Tensor], draw: Callable[[], Tensor]) -> Tensor:
        return ready.popleft() if ready else upload(draw(), self._device)

    def _fill(self, ready: deque[Tensor], count: int, draw: Callable[[], Tensor]) -> None:
        while len(ready) < count:
            ready.append(upload(draw(), self._device))
