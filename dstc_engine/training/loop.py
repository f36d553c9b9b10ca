"""What every training loop here shares: where it runs, how long, its pace on the terminal, its EMA.

A loop is plain PyTorch and runs on any one machine; `World` is how Ray Train (dstc/train.py) gives
it several.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

Model = TypeVar("Model", bound=nn.Module)


def _as_is(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class World:
    """Which worker this is, of how many, and how a model is made to share gradients.

    Attributes:
        rank, size: 0 .. size-1. device: where tensors live. wrap: e.g. DistributedDataParallel.
        report: called on every rank at each log with (step, metrics).
        clock: seconds. Workers that share gradients must read one clock: those that stopped or
            saved at different steps would wait for each other for ever.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = _as_is
    report: Callable[[int, dict[str, float]], None] | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass
class Pace:
    """Counts steps, shows a bar with ETA, says when to log, to save and to stop.

    Attributes:
        steps: the run's whole length. minutes: stop (to be resumed) after this long, 0 for never.
        save_minutes: between checkpoints. log_steps: between log lines. clock: see `World`.
    """

    steps: int
    minutes: float
    title: str
    rank: int = 0
    save_minutes: float = 10.0
    log_steps: int = 50
    clock: Callable[[], float] = time.monotonic

    def run(self, start: int) -> Iterator[tuple[int, bool]]:
        """Yields (step, whether to save after it) until the length or the minutes are used up."""
        began = saved = self.clock()
        bar = tqdm(
            total=self.steps, initial=start, desc=self.title, disable=self.rank > 0, mininterval=5
        )
        for step in range(start, self.steps):
            now = self.clock()
            stop = self.minutes > 0 and now - began > 60 * self.minutes
            save = stop or step == self.steps - 1 or now - saved > 60 * self.save_minutes
            if save:
                saved = now
            yield step, save
            bar.update()
            if stop:
                break
        bar.close()


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 200, floor: float = 0.05
) -> float:
    """Linear warm-up, then a cosine down to `floor` of the peak at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves `ema` towards `model`; early on faster, so that the random start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast.to(slow.dtype), 1 - decay)
    for kept, new in zip(ema.buffers(), model.buffers(), strict=True):
        kept.copy_(new)


def shuffled_rows(count: int, batch: int, step: int, seed: int, world: World) -> Tensor:
    """This worker's rows of the batch at `step`, each epoch in a new order: (batch / size,) int64.

    Depends on the step alone, so a resumed run sees what an unbroken one would have seen.
    """
    positions = torch.arange(step * batch, (step + 1) * batch)[world.rank :: world.size]
    epochs = (positions // count).tolist()
    orders = {
        epoch: torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        for epoch in set(epochs)
    }
    return torch.tensor(
        [
            int(orders[epoch][position % count])
            for epoch, position in zip(epochs, positions, strict=True)
        ]
    )
