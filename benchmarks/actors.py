"""Rows per second with 1 to 32 actors that only wait: what the job itself costs as it grows.

    python -m benchmarks.actors

Each actor is a real Ray worker process with a `FakeEngine`: its steps sleep, so thirty-two of them
share two cores and any loss is the job's: reading shards, handing them out, fetching, writing
images and parts. One step takes a second, a row 5 steps, an actor has 4 slots: 0.8 rows/s each.

`start` is the time until the last actor has taken its first shard: Ray, and worker processes
that import torch one after another on few cores. `rows/s` is measured after that and before the
first actor runs out of shards (`Timeline.rate`), so neither start nor tail is in it.
`efficiency` is `rows/s` over what the sleeping alone allows. A run holds enough rows for the start
(`--start-seconds` for each actor) and `--seconds` of measuring; nan: the start took longer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.table import print_table
from benchmarks.timeline import Timeline

STEPS, SLOTS, ROWS_PER_SHARD = 5, 4, 8  # STEPS: what FakeEngine takes for a row


def write_manifest(folder: Path, rows: int) -> Path:
    """So many rows about one small image."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "content.png")
    path = folder / "manifest.parquet"
    columns = {
        "id": [f"row-{number}" for number in range(rows)],
        "content": ["content.png"] * rows,
        "prompt": ["a drawing"] * rows,
    }
    pq.write_table(pa.table(columns), path)
    return path


def measure(actors: int, arguments: argparse.Namespace) -> list[str]:
    """One run."""
    from dstc.planning.settings import make_settings
    from dstc.translate import run

    ideal = actors * SLOTS / (STEPS * arguments.step_seconds)
    wanted = ideal * (arguments.seconds + arguments.start_seconds * actors)
    rows = -(-round(wanted) // ROWS_PER_SHARD) * ROWS_PER_SHARD
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        settings = make_settings(
            manifest=str(write_manifest(Path(folder), rows)),
            output=str(output),
            engine="fake",
            fake_step_seconds=arguments.step_seconds,
            actors=actors,
            slots=SLOTS,
            rows_per_shard=ROWS_PER_SHARD,
        )
        started = time.time()
        with contextlib.redirect_stdout(io.StringIO()):
            code = run(settings)
        ended = time.time()
        assert code == 0, f"the run with {actors} actors ended with {code}"
        timeline = Timeline(output, SLOTS)
    all_there = len(timeline.actors) == actors
    rate = timeline.rate if all_there else float("nan")
    return [
        str(actors),
        f"{rows:,}",
        f"{timeline.all_at_work - started:.0f} s",
        f"{max(0.0, timeline.first_idle - timeline.all_at_work):.0f} s",
        f"{ideal:.2f}",
        f"{rate:.2f}",
        f"{rate / ideal:.1%}",
        f"{ended - started:.0f} s",
        f"{rows / (ended - started):.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring in each run (60)")
    parser.add_argument("--step-seconds", type=float, default=1.0, help="of a fake step (1)")
    parser.add_argument(
        "--start-seconds", type=float, default=6.0, help="for each actor to start (6)"
    )
    arguments = parser.parse_args()
    rows = []
    for actors in arguments.actors:
        rows.append(measure(actors, arguments))
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    columns = ["actors", "rows", "start", "measured", "ideal rows/s", "rows/s", "efficiency"]
    print_table([*columns, "whole run", "rows/s of it"], rows)


if __name__ == "__main__":
    main()
