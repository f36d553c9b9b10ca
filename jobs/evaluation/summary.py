"""Means over a run: metrics.json, and the table on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from jobs.evaluation.measure_shard import BASELINES, COLUMNS, METRICS
from jobs.evaluation.plan import THREADS, Judging, read_metrics
from jobs.store import storage
from jobs.store.run_folder import RunFolder

HIGHER_IS_BETTER = {name: not name.endswith(("_distance", "_l1")) for name in METRICS}


def summarise(
    run: RunFolder, judging: Judging, shards: list[int], expected: int | None
) -> dict[str, Any]:
    """Reads all parts of metrics and writes metrics.json; returns what it holds.

    Args:
        expected: rows of the manifest, where known.
    """
    from dstc_engine.metrics.bootstrap import interval

    columns: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in COLUMNS}
    statuses: dict[str, int] = {}
    errors = 0
    with ThreadPoolExecutor(THREADS) as pool:
        tables = pool.map(lambda shard: read_metrics(run, shard), shards)
    for table in tables:
        if table is None:
            continue
        for status in table["status"].to_pylist():
            statuses[status] = statuses.get(status, 0) + 1
        errors += len(table) - table["metrics_error"].null_count
        for name in COLUMNS:
            values = table[name].to_numpy(zero_copy_only=False)
            columns[name].append(np.asarray(values, dtype=np.float64))

    def told(name: str) -> dict[str, Any] | None:
        values: npt.NDArray[np.float64] = (
            np.concatenate(columns[name]) if columns[name] else np.empty(0)
        )
        known = values[~np.isnan(values)]
        if not len(known):
            return None
        mean, low, high = interval(known)
        numbers = {"mean": mean, "median": float(np.median(known)), "low": low, "high": high}
        return {**numbers, "count": len(known)}

    def all_of(prefix: str) -> dict[str, Any]:
        found = {name: told(prefix + name) for name in METRICS}
        return {name: value for name, value in found.items() if value is not None}

    summary = {
        "judging": asdict(judging),
        "rows": sum(statuses.values()),
        "expected_rows": expected,
        "statuses": statuses,
        "unmeasured": errors,
        "metrics": all_of(""),
        "baselines": {baseline: all_of(f"{baseline}_") for baseline in BASELINES},
    }
    text = json.dumps(summary, indent=2) + "\n"
    storage.write_bytes(storage.join(run.uri, "metrics.json"), text.encode())
    return summary


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """One line a metric: the run's mean and interval beside those of both copies."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for column in ("better", "results", "copy of the content", "copy of the style", "rows"):
        table.add_column(column, overflow="fold")
    for name, values in summary["metrics"].items():
        copies = [_told(summary["baselines"][baseline].get(name)) for baseline in BASELINES]
        better = "higher" if HIGHER_IS_BETTER[name] else "lower"
        table.add_row(name, better, _told(values), *copies, f"{values['count']:,}")
    console = console or Console()
    console.print(table)
    rows, expected = summary["rows"], summary["expected_rows"]
    counts = ", ".join(f"{number:,} {status}" for status, number in summary["statuses"].items())
    console.print(f"{rows:,} rows: {counts or 'none'}; means with 95 % bootstrap intervals")
    if expected is not None and rows < expected:
        console.print(f"the run is not finished: {expected - rows:,} rows have no result yet")
    if summary["unmeasured"]:
        console.print(f"{summary['unmeasured']:,} rows could not be measured: see metrics_error")


def _told(values: Mapping[str, float] | None) -> str:
    if values is None or math.isnan(values["mean"]):
        return ""
    return f"{values['mean']:.4g} ({values['low']:.4g} to {values['high']:.4g})"
