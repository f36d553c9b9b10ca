"""Metrics of each row, read from the parts that `dstc evaluate` leaves in `metrics/`.

Names come from the parts themselves: every column of numbers that is no baseline's is a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dstc.evaluation.plan import metrics_part, read_metrics
from dstc.reporting.extremes import Extremes, ends_of
from dstc.reporting.parts import THREADS
from dstc.store import storage, urls
from dstc.store.run_folder import RunFolder

# Columns of the baselines: content and style image handed in as if they were results.
_BASELINES = ("source_copy_", "style_copy_")


@dataclass(frozen=True)
class Measures:
    """The measures of one part.

    Attributes:
        ids: (rows,) of its rows; None where it does not tell. numbers: name -> (rows,) float64.
    """

    ids: pa.ChunkedArray | None
    numbers: Mapping[str, npt.NDArray[np.float64]]

    def of(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Finite metrics of a result row; none where results and measures are not of one run."""
        offset = row["offset"]
        if self.ids is not None and self.ids[offset].as_py() != row.get("id"):
            return {}
        values = {name: float(column[offset]) for name, column in self.numbers.items()}
        return {name: value for name, value in values.items() if np.isfinite(value)}


def find_extremes(run: RunFolder, parts: Sequence[tuple[int, int]]) -> Extremes:
    """Lowest and highest rows of each metric, over all parts; they are read one by one.

    Args:
        parts: (shard, rows) of the parts of results.
    """

    def ends(part: tuple[int, int]) -> dict[str, list[tuple[float, int]]]:
        measures = read_measures(run, *part)
        return ends_of(measures.numbers) if measures else {}

    extremes = Extremes()
    measured = _measured(run, parts)
    with ThreadPoolExecutor(THREADS) as pool:
        for (shard, _), found in zip(measured, pool.map(ends, measured), strict=True):
            extremes.add(shard, found)
    return extremes


def measures_of(
    run: RunFolder, parts: Sequence[tuple[int, int]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """The metrics of some result rows, in their order; empty where a row has none.

    Args:
        parts: (shard, rows) of the parts of results. rows: as `parts.read_rows` gives them.
    """
    sizes = dict(parts)
    shards = sorted({row["shard"] for row in rows})
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda shard: read_measures(run, shard, sizes[shard]), shards)
        by_shard = dict(zip(shards, found, strict=True))
    return [part.of(row) if (part := by_shard[row["shard"]]) else {} for row in rows]


def _measured(run: RunFolder, parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those parts that were measured; none where nobody can tell."""
    try:
        there = set(storage.list_names(urls.join(run.uri, "metrics")))
    except Exception:  # drivers raise their own types; the page is about the run
        return []
    return [part for part in parts if metrics_part(run, part[0]).rpartition("/")[2] in there]


def read_measures(run: RunFolder, shard: int, rows: int) -> Measures | None:
    """The measures of a part of so many rows; None where they are not there or do not fit."""
    try:
        table = read_metrics(run, shard)
        if table is None or table.num_rows != rows:
            return None
        return Measures(
            ids=table["id"] if "id" in table.column_names else None,
            numbers={
                field.name: table[field.name].cast(pa.float64(), safe=False).to_numpy()
                for field in table.schema
                if _is_metric(field)
            },
        )
    except Exception:  # written by another version, or by half; the page is about the run
        return None


def _is_metric(column: pa.Field) -> bool:
    is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    return is_number and not column.name.startswith(_BASELINES)
