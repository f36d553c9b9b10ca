"""Two runs in numbers: only rows that both have, and only what means the same in both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstc.reporting import charts
from dstc.reporting.beside import Beside
from dstc.reporting.flags import FLAGGED, flags_of
from dstc.reporting.metrics_table import better
from dstc.reporting.throughput import finite
from dstc.store.json_record import Record
from dstc.store.ledger import MADE_BY
from dstc.store.results import DONE

Row = Mapping[str, Any]
Numbers = Mapping[str, float]
# What a preset may change, and a loss still be computed in the same way: how an image is made, how
# much each loss weighs, and what is flagged. A field that is not named here counts as part of it.
_OF_THE_WAY = frozenset(
    ["name", "prior", "prior_class", "respacing", "skip", "sampler", "resample", "noise_mix"]
    + ["range_restart", "range_restart_limit", "max_restarts", "divergence_gate"]
)
_WAYS = ("guidance_", "weight_", "gate_")
# Networks that make images, and judge none.
_MAKERS = ("prior", "student")


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        name: what it is. better: `lower` or `higher`, empty where neither.
        here, there: of the run of the page, and of the run beside, as texts.
        rows: that it is made of, which have it in both runs.
    """

    name: str
    better: str
    here: str
    there: str
    rows: int


@dataclass(frozen=True)
class Paired:
    """Rows that two runs share.

    Attributes:
        looked_for: rows of the run of the page. in_both: of them, those that the run beside has.
        with_images: of these, those done in both. lines: of the table.
        is_sample: the run of the page has more rows than were looked for.
    """

    looked_for: int
    in_both: int
    with_images: int
    lines: Sequence[Line]
    is_sample: bool


def pair(
    rows: Sequence[Row],
    measures: Sequence[Mapping[str, float]],
    job: Record,
    judging: Sequence[Mapping[str, Any]],
    beside: Beside,
    is_sample: bool,
) -> Paired:
    """Compares some rows of the run of the page with those of the run beside.

    Args:
        rows: of the run of the page, evenly spread over it or all. measures: their metrics.
        job: of the run of the page. judging: what judged the metrics of each of both runs.
    """
    found: dict[str, tuple[Row, Row, Numbers, Numbers]] = {}
    for row, of_row in zip(rows, measures, strict=True):
        # Of rows that share an id the first counts, as in the run beside.
        if isinstance(row_id := row.get("id"), str) and row_id in beside.rows:
            other = beside.rows[row_id], of_row, beside.measures.get(row_id, {})
            found.setdefault(row_id, (row, *other))
    here, there = [row for row, *_ in found.values()], [row for _, row, *_ in found.values()]
    done = [both for both in found.values() if _is_done(both[0]) and _is_done(both[1])]

    def count(name: str, fits: Callable[[Row], bool]) -> Line:
        counts = [f"{sum(map(fits, of_run)):,}" for of_run in (here, there)]
        return Line(name, "", counts[0], counts[1], len(found))

    lines = [
        count("done", _is_done),
        count("flagged", lambda row: bool(flags_of(row.get(FLAGGED)))),
    ]
    if any(map(_is_of_student, here + there)):
        lines.append(count("made by a student", _is_of_student))
    lines += _seconds([(row, other) for row, other, *_ in done])
    if judging[0] and judging[0] == judging[1]:
        lines += _means("", [(of_row, of_other) for *_, of_row, of_other in done])
    if _judge_alike(job, beside.job):
        for kind, numbers in (("last loss", _last_losses), ("distance", _distances)):
            lines += _means(f"{kind} ", [(numbers(row), numbers(other)) for row, other, *_ in done])
    return Paired(len(rows), len(found), len(done), lines, is_sample)


def _is_done(row: Row) -> bool:
    return row.get("status") == DONE


def _is_of_student(row: Row) -> bool:
    return row.get(MADE_BY) == "student"


def _seconds(pairs: Sequence[tuple[Row, Row]]) -> Iterator[Line]:
    """Median of what both tell; with the slots that a row shared its device with."""
    known = [pair for pair in pairs if all(finite(row.get("seconds")) for row in pair)]
    if known:
        texts = []
        for of_run in zip(*known, strict=True):
            median = charts.number(statistics.median(row["seconds"] for row in of_run))
            slots = statistics.mode(row.get("slots") for row in of_run)
            texts.append(f"{median} ({slots} slots)" if slots else median)
        yield Line("median seconds in a slot", "", texts[0], texts[1], len(known))


def _means(prefix: str, pairs: Sequence[tuple[Numbers, Numbers]]) -> Iterator[Line]:
    """The mean of each number, over the rows that have it in both runs."""
    for name in dict.fromkeys(name for one, _ in pairs for name in one):
        known = [
            ends for one, other in pairs if None not in (ends := (one.get(name), other.get(name)))
        ]
        if known:
            means = [charts.number(statistics.fmean(of_run)) for of_run in zip(*known, strict=True)]
            way = "lower" if prefix else better(name)
            yield Line(f"{prefix}{name}", way, means[0], means[1], len(known))


def _last_losses(row: Row) -> Numbers:
    """Losses of the last step. The total is none: weights are the preset's."""
    last = ([step for step in row.get("losses") or () if step] or [{}])[-1]
    return _finite(last, without=("index", "phase", "total"))


def _distances(row: Row) -> Numbers:
    """What the gates of a student saw of its image."""
    seen = row.get("gate_distances")  # of an early run it may be a column of the user's own
    return _finite(seen) if isinstance(seen, dict) else {}


def _finite(values: Mapping[str, Any], without: Sequence[str] = ()) -> Numbers:
    numbers = {name: finite(value) for name, value in values.items() if name not in without}
    return {name: number for name, number in numbers.items() if number is not None}


def _judge_alike(one: Record, other: Record) -> bool:
    """Whether losses and distances of both runs are the same functions of an image.

    What a run says nothing of, such as a network that it never loaded, is taken for the same.
    """
    fields, others = one.part("preset"), other.part("preset")
    if not fields or not others:
        return False
    judging = {
        name
        for name in (*fields, *others)
        if name not in _OF_THE_WAY and not name.startswith(_WAYS)
    }
    networks, other_networks = _networks(one), _networks(other)
    shared = networks.keys() & other_networks.keys()
    return all(fields.get(name) == others.get(name) for name in judging) and all(
        networks[name] == other_networks[name] for name in shared
    )


def _networks(job: Record) -> dict[object, object]:
    """Sums of the networks that judge, by name."""
    weights = job.values.get("weights")
    records = weights if isinstance(weights, list) else []
    return {
        record.get("name"): record.get("sha256")
        for record in records
        if isinstance(record, dict) and record.get("kind") not in _MAKERS
    }
