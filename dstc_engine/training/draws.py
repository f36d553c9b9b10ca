"""Batches drawn by threads while the network is busy with earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dstc_engine.cores import usable_cores

Batch = TypeVar("Batch")

# Beside a GPU, which takes milliseconds for a batch whose views take 0.2 s of one core.
_MOST_THREADS = 8


def threads_for(device: str) -> int:
    """How many threads draw: beside a CPU, at work itself, one; beside a GPU half of the cores."""
    if device.startswith("cpu"):
        return 1
    return max(1, min(_MOST_THREADS, usable_cores() // 2))


def with_batches(
    paced: Iterable[tuple[int, bool]], draw: Callable[[int], Batch], steps: int, threads: int
) -> Iterator[tuple[int, bool, Batch]]:
    """Adds its batch to each step, the following ones being drawn meanwhile.

    Args:
        paced: steps that follow each other, each with whether to save after it.
        draw: gives the batch of a step; what it gives may depend on the step alone, since threads
            call it. steps: of the whole run; no batch of a later one is begun. threads: 1 or more.

    Raises:
        Exception: what a draw raised, at its step.

    Example:
        for step, save, batch in with_batches(pace.run(0), draw, steps=100, threads=2):
            train(batch)
    """
    begun: dict[int, Future[Batch]] = {}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="draws")
    try:
        for step, save in paced:
            for ahead in range(step, min(step + threads + 1, steps)):
                if ahead not in begun:
                    begun[ahead] = pool.submit(draw, ahead)
            yield step, save, begun.pop(step).result()
    finally:
        pool.shutdown(cancel_futures=True)
