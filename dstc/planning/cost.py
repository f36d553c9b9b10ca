"""What a run will cost, before it is started: hours on a device, from the operations of a row.

How fast a device works off the operations that `dstc_engine/operations.py` counts is an assumption
(`ASSUMED_TFLOPS`), until the run has results of its own: then `measured_seconds_per_row` replaces
both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dstc.store import storage
from dstc.store.run_folder import RunFolder
from dstc_engine.operations import Cost

# Sustained TFLOP/s of one device, by its kind and the precision of the networks. Assumptions: a
# sixth of what an H100's data sheet gives for dense bf16 (989) and TF32 (494), under half of its
# fp32 (67); one core with AVX2.
ASSUMED_TFLOPS = {
    ("cuda", "bf16"): 160.0,
    ("cuda", "fp16"): 160.0,
    ("cuda", "tf32"): 80.0,
    ("cuda", "fp32"): 30.0,
    ("cpu", "fp32"): 0.04,
    ("cpu", "bf16"): 0.04,
    ("cpu", "fp16"): 0.04,
}
# Shards whose stats are read for a measured speed: enough for some rows of every actor.
_MEASURED_SHARDS = 128


@dataclass(frozen=True)
class Estimate:
    """Expected operations and hours of a run.

    Attributes:
        rows: to do.
        flops_per_row: counted. tflops: assumed rate of a device; None where time was measured.
        seconds_per_row: of one device with its slots full.
        device_hours: of all devices together.
        basis: one line that says what the numbers stand on.
    """

    rows: int
    flops_per_row: int
    tflops: float | None
    seconds_per_row: float
    device_hours: float
    basis: str

    def hours(self, actors: int) -> float:
        """Wall time on so many devices; start, and rows that end unevenly, are not in it."""
        return self.device_hours / actors


def estimate(
    cost: Cost,
    rows: int,
    device: str,
    precision: str = "fp32",
    *,
    tflops: float | None = None,
    measured_seconds_per_row: float | None = None,
    samples: int = 1,
) -> Estimate:
    """Estimates the cost of so many rows.

    Args:
        cost: of a row. rows: to do. device: "cuda" or "cpu". precision: of the networks.
        tflops: sustained rate of one device; by default that of `ASSUMED_TFLOPS`.
        measured_seconds_per_row: of one device, in this very run folder; goes before `tflops`.
        samples: images of a row; what is encoded of its content and style serves all of them.
    """
    flops = samples * cost.chain + cost.conditions
    if measured_seconds_per_row is not None:
        seconds, rate = measured_seconds_per_row, None
        basis = f"{seconds:.3g} s a row and device, as measured in this run"
    else:
        assumed = ASSUMED_TFLOPS[device, precision]
        rate = assumed if tflops is None else tflops
        seconds = flops / (rate * 1e12)
        origin = "assumed" if tflops is None else "given"
        name = "GPU" if device == "cuda" else "CPU core"
        basis = (
            f"{flops / 1e12:,.3g} TFLOP a row ({samples * cost.steps} {cost.unit}), {origin} "
            f"{rate:g} TFLOP/s a {name}"
        )
    return Estimate(rows, flops, rate, seconds, rows * seconds / 3600, basis)


def measured_seconds_per_row(run: RunFolder, shards: Sequence[int]) -> float | None:
    """Device-seconds per row of finished shards, from their stats; None when there are none.

    An actor works on several shards at once: the time of each actor counts once.

    Args:
        run: whose stats. shards: finished ones; the last `_MEASURED_SHARDS` are looked at.
    """

    def read(shard: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(storage.read_bytes(run.stats(shard)))
        except (OSError, ValueError):
            return None  # an estimate does without
        return found

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(read, shards[-_MEASURED_SHARDS:]))
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rows = 0
    for stats in found:
        if stats and "ended" in stats and stats.get("status", {}).get("done"):
            spans[stats["worker"]].append((stats["started"], stats["ended"]))
            rows += stats["status"]["done"]
    return sum(map(_covered, spans.values())) / rows if rows else None


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that lie in any of the spans."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
