"""Summary of an evaluation: means over a run, in metrics.json and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from dstc.evaluation.measure_shard import BASELINES, COLUMNS
from dstc.evaluation.plan import (
    THREADS,
    EvaluationConfig,
    features_part,
    read_metrics,
    read_table,
    reference_part,
)
from dstc.store import retries, storage, urls
from dstc.store.run_folder import RunFolder
from dstc.text import visible
from dstc_engine.metrics import METRICS, SET_METRICS

if TYPE_CHECKING:
    from dstc_engine.metrics.sets import Estimate

Array = npt.NDArray[np.float64]

_SETS = ("results", *BASELINES)


def summarize_metrics(
    run: RunFolder,
    config: EvaluationConfig,
    shards: Sequence[int],
    expected: int | None,
    reference_parts: int = 0,
    classifier_right: float | None = None,
) -> dict[str, Any]:
    """Reads all parts of metrics and writes metrics.json; returns what it holds.

    Args:
        expected: rows of the manifest, where known. reference_parts: files of its features.
        classifier_right: how often the classifier of styles is.

    Raises:
        OSError: storage does not answer.
    """
    from dstc_engine.metrics.bootstrap import interval

    columns: dict[str, list[Array]] = {name: [] for name in COLUMNS}
    statuses: dict[str, int] = {}
    errors, lost = 0, []
    for shard, table in zip(shards, _read_all(lambda s: read_metrics(run, s), shards), strict=True):
        if table is None:
            lost.append(shard)
            continue
        for status in table["status"].to_pylist():
            statuses[status] = statuses.get(status, 0) + 1
        errors += len(table) - table["metrics_error"].null_count
        for name in COLUMNS:
            values = table[name].to_numpy(zero_copy_only=False)
            columns[name].append(np.asarray(values, dtype=np.float64))

    def estimate(name: str) -> dict[str, Any] | None:
        values: Array = np.concatenate(columns[name]) if columns[name] else np.empty(0)
        known = values[~np.isnan(values)]
        if not len(known):
            return None
        mean, low, high = interval(known)
        numbers = {"mean": mean, "median": float(np.median(known)), "low": low, "high": high}
        return {**numbers, "count": len(known)}

    def all_of(prefix: str) -> dict[str, Any]:
        found = {name: estimate(prefix + name) for name in METRICS}
        return {name: value for name, value in found.items() if value is not None}

    summary = {
        "judging": config.record,
        "rows": sum(statuses.values()),
        "expected_rows": expected,
        "statuses": statuses,
        "unmeasured": errors,
        "damaged_parts": lost,
        "classifier_right": classifier_right,
        "metrics": all_of(""),
        "baselines": {baseline: all_of(f"{baseline}_") for baseline in BASELINES},
        "sets": _compare_sets(run, config, shards, reference_parts),
    }
    text = json.dumps(summary, indent=2) + "\n"
    storage.write_bytes(urls.join(run.uri, "metrics.json"), text.encode(), retries.STEADY)
    return summary


def _read_all(
    read: Callable[[int], pa.Table | None], numbers: Sequence[int]
) -> list[pa.Table | None]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, numbers))


def _compare_sets(
    run: RunFolder, config: EvaluationConfig, shards: Sequence[int], reference_parts: int
) -> dict[str, Any] | None:
    """The distances of the results, and of both copies, from the reference; None without one."""
    from dstc_engine.metrics.sets import LEAST, WITHOUT_CLASSES, class_mean_distance

    tables = _read_all(lambda shard: read_table(features_part(run, shard)), shards)
    known = [table for table in tables if table is not None and len(table)]
    if reference_parts:
        tables = _read_all(lambda n: read_table(reference_part(run, n)), range(reference_parts))
        known += [table for table in tables if table is not None]
    sets = _by_set(known)
    if not reference_parts and "style_copy" in sets:
        # Rows share style images; as a reference each counts once.
        features, styles = sets["style_copy"]
        _, first = np.unique(features, axis=0, return_index=True)
        sets["reference"] = features[first], [styles[n] for n in first]
    if any(len(sets.get(name, ((), ()))[0]) < LEAST for name in ("results", "reference")):
        return None
    real, real_styles = sets["reference"]
    found: dict[str, Any] = {}
    for name in _SETS:
        if name not in sets or len(sets[name][0]) < LEAST:
            continue
        features, styles = sets[name]
        distances = {metric: way(features, real) for metric, way in WITHOUT_CLASSES.items()}
        distances["class_mean_distance"] = class_mean_distance(features, real, styles, real_styles)
        found[name] = {metric: _numbers(estimate) for metric, estimate in distances.items()} | {
            "pictures": len(features)
        }
    return {
        "network": config.set_network,
        "reference": config.reference or "the run's style images",
        "reference_pictures": len(real),
        **found,
    }


def _by_set(tables: Sequence[pa.Table]) -> dict[str, tuple[Array, list[str | None]]]:
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    names = np.array(table["set"].to_pylist(), object)
    styles = np.array(table["style"].to_pylist(), object)
    column = table["features"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    return {
        name: (flat[names == name].astype(np.float64), styles[names == name].tolist())
        for name in dict.fromkeys(names)
    }


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    value, low, high = (None if math.isnan(number) else number for number in estimate)
    return {"value": value, "low": low, "high": high}


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """One line a metric: the run's mean and interval beside those of both copies."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for column in ("better", "results", "copy of the content", "copy of the style", "rows"):
        table.add_column(column, overflow="fold")
    for name, values in summary["metrics"].items():
        copies = [_mean_cell(summary["baselines"][baseline].get(name)) for baseline in BASELINES]
        better = "higher" if METRICS[name] else "lower"
        table.add_row(name, better, _mean_cell(values), *copies, f"{values['count']:,}")
    sets = summary["sets"]
    for name, label in SET_METRICS.items() if sets else ():
        cells = [_distance_cell(sets[which][name]) if which in sets else "" for which in _SETS]
        if any(cells):
            shown = label if summary["judging"]["inception"] else name
            table.add_row(shown, "lower", *cells, f"{sets['results']['pictures']:,}")
    console = console or _console()
    console.print(table)
    rows, expected = summary["rows"], summary["expected_rows"]
    counts = ", ".join(f"{number:,} {status}" for status, number in summary["statuses"].items())
    console.print(f"{rows:,} rows: {counts or 'none'}; means with 95 % bootstrap intervals")
    if sets:
        console.print(
            f"distances are from {sets['reference_pictures']:,} images of "
            f"{visible(sets['reference'])}, by {sets['network']}"
        )
    if summary["classifier_right"] is not None:
        right = summary["classifier_right"]
        console.print(f"the classifier of styles is right on {right:.1%} of images held out")
    if expected is not None and rows < expected:
        console.print(f"the run is not finished: {expected - rows:,} rows have no result yet")
    if summary["unmeasured"]:
        console.print(f"{summary['unmeasured']:,} rows could not be measured: see metrics_error")
    if lost := summary["damaged_parts"]:
        console.print(
            f"{len(lost):,} parts of metrics are gone or damaged (the first: {lost[0]}); the same "
            "command measures them"
        )


def _console() -> Console:
    """Names hold brackets; in a pipe or a file a line is as long as it has to be, never folded."""
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, width=400)


def _mean_cell(values: Mapping[str, float] | None) -> str:
    if values is None:
        return ""
    return f"{values['mean']:.4g} ({values['low']:.4g} to {values['high']:.4g})"


def _distance_cell(values: Mapping[str, float | None]) -> str:
    if values["value"] is None:
        return ""
    value = f"{values['value']:.4g}"
    if values["low"] is None or values["high"] is None:
        return value
    return f"{value} ({values['low']:.4g} to {values['high']:.4g})"
