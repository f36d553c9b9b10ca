"""When each actor of a finished run on local disk was at work, and when each of its rows ended.

From the stats files of shards, and from the times of the images, each of which is written when
its row ends.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq


@dataclass
class ActorTime:
    """An actor's work; seconds since the epoch.

    Attributes:
        started: its first shard. ended: its last. row_ends: of its rows, ascending.
        busy: occupancy of each shard. phases: seconds by phase, summed over rows.
    """

    started: float = float("inf")
    ended: float = float("-inf")
    row_ends: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    phases: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def rate_of(row_ends: list[float], start: float, stop: float, slots: int) -> float:
    """Rows per second of one engine in start <= time <= stop; NaN when that was too short.

    Counted are rows of a whole number of times that its slots were emptied: slots end in step with
    each other, and a window that cuts such a wave would count rows that it did not last for.

    Args:
        row_ends: ascending. slots: of the engine.
    """
    ends = [end for end in row_ends if start <= end <= stop]
    rows = (len(ends) - 1) // slots * slots
    return rows / (ends[-1] - ends[-1 - rows]) if rows > 0 else float("nan")


class Timeline:
    """All actors of a run, by name.

    Args:
        output: the run folder. slots: of an actor.
    """

    def __init__(self, output: Path, slots: int) -> None:
        self.slots = slots
        self.actors: defaultdict[str, ActorTime] = defaultdict(ActorTime)
        for path in (output / "stats").glob("*.json"):
            stats = json.loads(path.read_text())
            if stats.get("state") != "done":
                continue
            actor = self.actors[stats["worker"]]
            actor.started = min(actor.started, stats["started"])
            actor.ended = max(actor.ended, stats["ended"])
            actor.busy.append(stats["occupancy"])
            for phase, seconds in stats["seconds"].items():
                actor.phases[phase] += seconds
            part = output / "results" / f"part-{path.stem}.parquet"
            images = pq.read_table(part, columns=["image"]).column("image").to_pylist()
            actor.row_ends += [(output / name).stat().st_mtime for name in images]
        for actor in self.actors.values():
            actor.row_ends.sort()

    @property
    def all_at_work(self) -> float:
        """When the last actor to start took its first shard."""
        return max(actor.started for actor in self.actors.values())

    @property
    def first_idle(self) -> float:
        """When the first actor to run out of shards ended its last."""
        return min(actor.ended for actor in self.actors.values())

    @property
    def rate(self) -> float:
        """Rows per second of all actors while all were at work; NaN when that was too short.

        See `rate_of`.
        """
        return sum(
            rate_of(actor.row_ends, self.all_at_work, self.first_idle, self.slots)
            for actor in self.actors.values()
        )

    def seconds_per_row(self, phase: str) -> float:
        """Of a phase; rows overlap, so phases do not add up to time."""
        rows = sum(len(actor.row_ends) for actor in self.actors.values())
        return sum(actor.phases[phase] for actor in self.actors.values()) / rows

    @property
    def occupancy(self) -> float:
        """Mean over shards."""
        busy = [share for actor in self.actors.values() for share in actor.busy]
        return sum(busy) / len(busy)
