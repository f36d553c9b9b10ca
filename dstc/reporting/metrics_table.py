"""metrics.json as a table: each metric beside what copies of content and style reach.

Whatever the file names is shown; what is not of the expected form is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dstc.reporting.charts import interval_plot, number
from dstc.reporting.texts import rows_of
from dstc.reporting.throughput import finite
from dstc.store.json_record import MISSING, Record
from dstc_engine.metrics import METRICS, SET_METRICS

_SETS = ("results", "source_copy", "style_copy")


@dataclass(frozen=True)
class Value:
    """A mean and its 95 % interval, as texts; the interval may be empty."""

    mean: str
    interval: str


@dataclass(frozen=True)
class Metric:
    """One line: a metric, which way is better, and what results and copies have.

    `plot` shows the three on one axis; None where there is nothing to compare with.
    """

    name: str
    better: str
    results: Value
    content_copy: Value | None
    style_copy: Value | None
    rows: int | None
    plot: Markup | None


@dataclass(frozen=True)
class MetricsTable:
    """Contents of metrics.json, as the report shows them.

    Attributes:
        metrics: the lines. sets: what sets were compared with, and by what, (name, text).
        models: (what, name) of the networks that judged. models_guided: they are those that guided.
        notes: what a reader has to know. problem: why there is nothing, or None.
    """

    metrics: Sequence[Metric] = ()
    sets: Sequence[tuple[str, str]] = ()
    models: Sequence[tuple[str, str]] = ()
    models_guided: bool = False
    notes: Sequence[str] = ()
    problem: str | None = None

    @property
    def is_missing(self) -> bool:
        """The run was not evaluated."""
        return self.problem == MISSING


def better(name: str) -> str:
    """`lower` or `higher`: which way a metric is better; empty where it is not known here."""
    if name in SET_METRICS or name in SET_METRICS.values():
        return "lower"
    known = METRICS.get(name)
    return "" if known is None else ("higher" if known else "lower")


def make_table(record: Record, job: Record, rows: int) -> MetricsTable:
    """The table of an evaluation.

    Args:
        record: metrics.json. job: job.json. rows: that have a result by now.
    """
    if record.problem:
        return MetricsTable(problem=record.problem)
    baselines = record.part("baselines")
    metrics = list(_metrics(record.part("metrics"), baselines))
    judging, sets = record.part("judging"), record.part("sets")
    of_sets = {name: _distances(sets, name, bool(judging.get("inception"))) for name in _SETS}
    metrics += _metrics(of_sets["results"], of_sets)
    models = [(what, str(judging[what])) for what in ("dino", "clip") if judging.get(what)]
    preset = job.part("preset")
    guides = {preset.get("dino"), *_list(preset.get("clips"))}
    return MetricsTable(
        metrics=metrics,
        sets=rows_of({key: distances for key, distances in sets.items() if key not in _SETS}),
        models=models,
        models_guided=any(name in guides for _, name in models),
        notes=list(_notes(record, rows)),
        problem=None if metrics else "tells of no metric",
    )


def _distances(sets: Mapping[str, Any], name: str, by_inception: bool) -> dict[str, Any]:
    """The distances of one set from the reference, in the form of metrics."""
    distances = _object(sets.get(name))
    return {
        SET_METRICS.get(metric, metric) if by_inception else metric: {
            **numbers,
            "mean": numbers.get("value"),
            "count": distances.get("pictures"),
        }
        for metric, numbers in distances.items()
        if isinstance(numbers, dict)
    }


def _metrics(found: Mapping[str, Any], baselines: Mapping[str, Any]) -> Iterable[Metric]:
    content, style = (_object(baselines.get(key)) for key in ("source_copy", "style_copy"))
    for name, values in found.items():
        numbers = _object(values)
        mean = finite(numbers.get("mean"))
        if mean is None:
            continue
        copies = [finite(_object(copy.get(name)).get("mean")) for copy in (content, style)]
        low, high = (finite(numbers.get(end)) for end in ("low", "high"))
        count = finite(numbers.get("count"))
        yield Metric(
            name=str(name),
            better=better(str(name)),
            results=_value(numbers, mean),
            content_copy=_copy(_object(content.get(name))),
            style_copy=_copy(_object(style.get(name))),
            rows=None if count is None else int(count),
            plot=interval_plot(
                f"{name}: results at {number(mean)}",
                mean,
                mean if low is None else low,
                mean if high is None else high,
                *copies,
            ),
        )


def _copy(numbers: Mapping[str, Any]) -> Value | None:
    mean = finite(numbers.get("mean"))
    return None if mean is None else _value(numbers, mean)


def _value(numbers: Mapping[str, Any], mean: float) -> Value:
    found = [finite(numbers.get(name)) for name in ("low", "high")]
    ends = [number(end) for end in found if end is not None]
    return Value(number(mean), " to ".join(ends) if len(set(ends)) == 2 else "")


def _notes(record: Record, rows: int) -> Iterable[str]:
    measured, unmeasured = (finite(record.values.get(key)) for key in ("rows", "unmeasured"))
    if measured is not None and measured != rows:
        yield (
            f"metrics.json tells of {measured:,.0f} rows, and the results hold {rows:,}: "
            "dstc evaluate, run again, measures what is new."
        )
    if unmeasured:
        yield f"{unmeasured:,.0f} rows could not be measured: see metrics_error in metrics/."


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []
