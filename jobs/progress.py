"""Rows ended so far, counted by a small Ray actor while shards are still running.

Only for the eye: results never depend on it, and a lost count is not an error.
"""

from __future__ import annotations

import contextlib
from typing import Any

import ray


class RowCount:
    """Counts rows by shard; one that is run again starts where it was, so no bar goes back."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._total = 0

    def tell(self, shard: int, rows: int) -> None:
        """So many rows of this shard have ended."""
        known = self._rows.get(shard, 0)
        if rows > known:
            self._rows[shard] = rows
            self._total += rows - known

    def total(self) -> int:
        """Rows ended, of all shards."""
        return self._total


def start_row_count() -> Any:
    """A `RowCount` actor beside the driver, so that it lives as long as the driver does."""
    node = ray.get_runtime_context().get_node_id()
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(RowCount).options(num_cpus=0, scheduling_strategy=place).remote()


def tell(row_count: Any, shard: int, rows: int) -> None:
    """Tells the count without waiting; `row_count` may be None."""
    if row_count is not None:
        with contextlib.suppress(ray.exceptions.RayError):
            row_count.tell.remote(shard, rows)
