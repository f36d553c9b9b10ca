"""What a device can do at most: its measured matrix rate and the bandwidth of its memory.

Measured in the same run as what is compared with them. A data sheet names clocks that a card under
load does not hold, and a shared processor has neighbors.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from dstc_engine.precision import PRECISIONS, use_tf32

# Sides of square matrices. Small ones do not fill a GPU; of larger ones, a CPU core that emulates
# bfloat16 takes minutes (0.2 GFLOP/s).
_SIDES = {"cuda": (4096, 8192), "cpu": (256, 512)}
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 28}
_SECONDS = 0.5


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP per second of a large matrix product, the best of repeated ones.

    A multiplication with its addition counts as two.
    """
    dtype = PRECISIONS[precision]
    if device.type == "cuda":
        use_tf32(precision)
    rates = []
    for side in _SIDES[device.type]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rates.append(2 * side**3 / _least_seconds(lambda a=a, b=b: torch.mm(a, b), device))
    return max(rates)


def bandwidth(device: torch.device) -> float:
    """Bytes per second between the device and its memory, read and written, of a large copy."""
    count = _COPIED[device.type]
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the least of what fits into half a second, and of three at least."""
    work()
    synchronize(device)
    least, count, started = float("inf"), 0, time.perf_counter()
    while count < 3 or time.perf_counter() - started < _SECONDS:
        before = time.perf_counter()
        work()
        synchronize(device)
        least = min(least, time.perf_counter() - before)
        count += 1
    return least
