"""Memory of processes while they run: samples of their resident size, and the slope of these.

A process that lives for hours may grow by nothing but its work. The slope is one line for all
processes of a kind, each with a level of its own, so that a process that was started again does not
count as one that shrank. Samples of neighboring seconds resemble each other; the interval therefore
comes from a bootstrap over blocks of them.
"""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 2**20
# Imports, a first image, caches that fill: the start of a life, which the slope leaves out. Of one
# that ends soon after, nothing can be said.
_WARM_UP_S = 60.0
_SHORTEST_S = 120.0
_BLOCK = 30  # samples, which are a second apart


@dataclass(frozen=True)
class Sample:
    """Resident size of a process.

    Attributes:
        seconds: since the first sample. kind: of process. pid: its number. mib: MiB.
    """

    seconds: float
    kind: str
    pid: int
    mib: float


@dataclass(frozen=True)
class Slope:
    """MiB per minute, and the bounds of its 95 % interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass
class MemoryLog:
    """Samples of all processes that are there, once a second, in a thread.

    Args:
        processes: the numbers of the processes that are there now, by kind.
    """

    processes: Callable[[], Mapping[str, list[int]]]
    samples: list[Sample] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self, every_s: float = 1.0) -> Iterator[None]:
        """Takes samples while the block runs."""
        end = threading.Event()
        started = time.monotonic()

        def sample() -> None:
            while not end.wait(every_s):
                now = time.monotonic() - started
                for kind, pids in self.processes().items():
                    for pid in pids:
                        # Zero: it has ended, and nobody has waited for it yet.
                        if mib := resident_mib(pid):
                            self.samples.append(Sample(now, kind, pid, mib))

        thread = threading.Thread(target=sample, name="memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def write(self, path: Path) -> list[str]:
        """Writes a table of seconds and MiB: a column for each kind and place in it, by age.

        Returns:
            The columns, without `seconds`.
        """
        places: dict[tuple[float, str], list[Sample]] = defaultdict(list)
        for sample in self.samples:
            places[sample.seconds, sample.kind].append(sample)
        rows: dict[float, dict[str, float]] = defaultdict(dict)
        for (seconds, kind), there in places.items():
            for number, sample in enumerate(sorted(there, key=lambda s: s.pid), 1):
                rows[seconds][f"{kind} {number}"] = sample.mib
        columns = sorted({name for row in rows.values() for name in row})
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, ["seconds", *columns])
            table.writeheader()
            for seconds, row in sorted(rows.items()):
                values = {name: f"{mib:.1f}" for name, mib in row.items()}
                table.writerow({"seconds": f"{seconds:.1f}", **values})
        return columns


def resident_mib(pid: int) -> float:
    """MiB; 0 for a process that is no more."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / _MIB
    except (OSError, IndexError):
        return 0.0


def slope_of(samples: list[Sample], seed: int = 0) -> Slope | None:
    """The common slope of all processes, by least squares; None where none lived two minutes.

    Args:
        seed: of the bootstrap, 2,000 times over blocks of half a minute.
    """
    lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.kind, sample.pid].append(sample)
    minutes, sizes = [], []
    for life in lives.values():
        first = life[0].seconds
        if life[-1].seconds - first < _SHORTEST_S:
            continue
        kept = [sample for sample in life if sample.seconds - first >= _WARM_UP_S]
        for values, of_all in (
            ([s.seconds / 60 for s in kept], minutes),
            ([s.mib for s in kept], sizes),
        ):
            of_all.append(np.asarray(values) - np.mean(values))  # its own level
    if not minutes:
        return None
    x, y = np.concatenate(minutes), np.concatenate(sizes)
    weights = x / (x @ x)
    estimate = float(weights @ y)
    rest = y - estimate * x
    block = min(_BLOCK, len(rest) // 3)
    draws = np.random.default_rng(seed).integers(0, len(rest), (2000, -(-len(rest) // block)))
    chosen = (draws[:, :, None] + np.arange(block)) % len(rest)
    slopes = estimate + rest[chosen.reshape(2000, -1)[:, : len(rest)]] @ weights
    low, high = np.percentile(slopes, [2.5, 97.5])
    return Slope(estimate, float(low), float(high))
