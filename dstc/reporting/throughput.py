"""How fast a run went, from the timings that each shard leaves in `stats/`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dstc.store import storage, urls
from dstc.store.run_folder import RunFolder

PHASES = ("fetch", "queue", "translate", "write")
# Enough for every number here; a run of millions of rows has a hundred thousand shards.
MAX_SHARDS = 2000
# A longer silence is a pause between two commands that continued one run.
_PAUSE_S = 60.0
_BINS = 60
_THREADS = 8


@dataclass(frozen=True)
class Shard:
    """Timings of a finished shard; times are seconds since 1970, seconds summed over rows."""

    rows: int
    started: float
    ended: float
    seconds: Mapping[str, float]
    occupancy: float | None
    worker: str


@dataclass(frozen=True)
class Phase:
    """Where the rows' time went: its seconds, their share, and their mean over rows."""

    name: str
    seconds: float
    share: float
    per_row: float


@dataclass(frozen=True)
class Throughput:
    """Rows per second and seconds by phase, summed over shards.

    Attributes:
        found, read: stats files, and those that were read. running: shards begun and not finished.
        scale: by how much sums over the shards read are too small.
        rows: of the finished shards read.
        started, ended: of the first and the last, or None. active_s: between them, without pauses.
        rate: rows per second of active time. occupancy: share of slots that were busy.
        phases: in the order a row goes through them.
        workers: (name, shards, rows) of the shards read, the busiest first.
        rates, occupancies: over equal pieces of the active time; NaN where nothing is known.
    """

    found: int
    read: int
    running: int
    scale: float = 1.0
    rows: int = 0
    started: float | None = None
    ended: float | None = None
    active_s: float = 0.0
    rate: float | None = None
    occupancy: float | None = None
    phases: Sequence[Phase] = ()
    workers: Sequence[tuple[str, int, int]] = ()
    rates: Sequence[float] = field(default_factory=list)
    occupancies: Sequence[float] = field(default_factory=list)


def read_throughput(run: RunFolder) -> Throughput:
    """Reads the stats of a run, evenly spread ones where there are very many."""
    folder = urls.join(run.uri, "stats")
    names = [name for name in storage.list_names(folder) if name.endswith(".json")]
    shown = min(len(names), MAX_SHARDS)
    chosen = [names[number * len(names) // shown] for number in range(shown)]
    with ThreadPoolExecutor(_THREADS) as pool:
        records = list(pool.map(lambda name: _read(urls.join(folder, name)), chosen))
    shards = [shard for record in records if (shard := _shard(record)) is not None]
    running = sum(record.get("state") == "running" for record in records)
    return throughput_of(shards, found=len(names), read=len(chosen), running=running)


def throughput_of(shards: Sequence[Shard], found: int, read: int, running: int) -> Throughput:
    """Adds shards up; `found` files of which `read` were read, `running` of them not finished."""
    if not shards:
        return Throughput(found=found, read=read, running=running)
    scale = found / read
    clock = _ActiveTime(shards)
    rows = sum(shard.rows for shard in shards)
    weighted = [(s.occupancy, s.ended - s.started) for s in shards if s.occupancy is not None]
    weight = sum(seconds for _, seconds in weighted)
    seconds = dict.fromkeys(PHASES, 0.0)
    by_worker: dict[str, tuple[int, int]] = {}
    for shard in shards:
        for name, value in shard.seconds.items():
            seconds[name] += value
        count, worker_rows = by_worker.get(shard.worker, (0, 0))
        by_worker[shard.worker] = count + 1, worker_rows + shard.rows
    total = math.fsum(seconds.values())
    rates, occupancies = _over_time(shards, clock, scale)
    return Throughput(
        found=found,
        read=read,
        running=running,
        scale=scale,
        rows=rows,
        started=min(shard.started for shard in shards),
        ended=max(shard.ended for shard in shards),
        active_s=clock.total,
        rate=rows * scale / clock.total if clock.total > 0 else None,
        occupancy=sum(o * s for o, s in weighted) / weight if weight > 0 else None,
        phases=[
            Phase(
                name=name,
                seconds=seconds[name] * scale,
                share=seconds[name] / total if total else 0.0,
                per_row=seconds[name] / rows if rows else 0.0,
            )
            for name in PHASES
        ],
        workers=sorted(
            ((name, *numbers) for name, numbers in by_worker.items()),
            key=lambda worker: (-worker[2], worker[0]),
        ),
        rates=rates,
        occupancies=occupancies,
    )


class _ActiveTime:
    """Seconds since the start of a run, pauses between its commands left out."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._spans: list[tuple[float, float, float]] = []  # start, end, active time before it
        self.total = 0.0
        start = end = None
        for shard in sorted(shards, key=lambda shard: shard.started):
            if start is not None and end is not None and shard.started > end + _PAUSE_S:
                self._close(start, end)
                start = None
            if start is None:
                start, end = shard.started, shard.ended
            end = shard.ended if end is None else max(end, shard.ended)
        if start is not None and end is not None:
            self._close(start, end)

    def _close(self, start: float, end: float) -> None:
        self._spans.append((start, end, self.total))
        self.total += end - start

    def at(self, moment: float) -> float:
        """Active seconds before a moment."""
        for start, end, before in self._spans:
            if moment <= end:
                return before + max(moment - start, 0.0)
        return self.total


def _over_time(
    shards: Sequence[Shard], clock: _ActiveTime, scale: float
) -> tuple[list[float], list[float]]:
    """Rows per second and busy share of slots; a shard's rows end evenly over its time."""
    if clock.total <= 0:
        return [], []
    width = clock.total / _BINS
    rows = [0.0] * _BINS
    busy, known = [0.0] * _BINS, [0.0] * _BINS
    for shard in shards:
        start, end = clock.at(shard.started), clock.at(shard.ended)
        for place in range(int(start / width), min(_BINS, int(end / width) + 1)):
            shared = min(end, (place + 1) * width) - max(start, place * width)
            if shared <= 0 or end <= start:
                continue
            rows[place] += shard.rows * shared / (end - start)
            if shard.occupancy is not None:
                busy[place] += shard.occupancy * shared
                known[place] += shared
    rates = [value * scale / width for value in rows]
    return rates, [b / k if k else math.nan for b, k in zip(busy, known, strict=True)]


def _read(uri: str) -> dict[str, Any]:
    try:
        record = json.loads(storage.read_bytes(uri))
    except Exception:  # a file being written, or of a shard that ended badly; others tell enough
        return {}
    return record if isinstance(record, dict) else {}


def _shard(record: Mapping[str, Any]) -> Shard | None:
    rows, started, ended = (finite(record.get(key)) for key in ("rows", "started", "ended"))
    if rows is None or started is None or ended is None or ended < started:
        return None
    by_part = record.get("seconds")
    seconds = by_part if isinstance(by_part, dict) else {}
    return Shard(
        rows=int(rows),
        started=started,
        ended=ended,
        seconds={name: finite(seconds.get(name)) or 0.0 for name in PHASES},
        occupancy=finite(record.get("occupancy")),
        worker=str(record.get("worker") or "unknown"),
    )


def finite(value: object) -> float | None:
    """The value where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
