"""The job against the bare engine: rows per second with the tiny64 networks on this machine's CPU.

    python -m benchmarks.job_overhead

Bare: as many processes as actors, each with the networks loaded, its rows' images decoded and one
torch thread, runs `dstc_engine.translate` over them; nothing is fetched or written. Job: the same
rows, slots and actors through `dstc translate`. Both take the rows of the demo manifest, repeated.
Ray runs its workers at niceness 15, so the bare processes do too: on a machine with other work, the
two would otherwise be given different shares of the cores.

`steady` is the rate while all processes are at work (`timeline.Timeline.rate`; for the bare engine
from the times at which rows come out of it); `whole` is all rows over the time from the command to
its end. Runs alternate, and medians are printed. The rest of the table says where the job's time
goes: until the first shard (Ray, processes, networks), after the last one, and per row in fetching
and writing, which go on beside the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import print_table
from benchmarks.timeline import Timeline, rate_of

_RAY_NICENESS = int(os.environ.get("RAY_worker_niceness", "15"))
DEMO = Path(__file__).resolve().parent.parent / "manifests" / "demo.parquet"


def write_manifest(folder: Path, rows: int) -> Path:
    """The demo's rows, repeated under new ids."""
    demo = pq.read_table(DEMO).to_pylist()
    chosen = []
    for number, row in zip(range(rows), itertools.cycle(demo), strict=False):
        images = {
            name: str(DEMO.parent / row[name])
            for name in ("content", "style", "mask")
            if row[name] is not None
        }
        chosen.append({**row, **images, "id": f"{number:05d}"})
    path = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(chosen, pq.read_schema(DEMO)), path)
    return path


def run_bare_worker(manifest: str, start: int, step: int, slots: int) -> None:
    """Every `step`-th row from `start` on; waits for a line on stdin, prints when rows ended."""
    import torch

    from dstc.worker.row import check_row, load_request
    from dstc_engine.engine import Engine, translate
    from dstc_engine.models import load_models
    from dstc_engine.presets import TINY64

    os.nice(_RAY_NICENESS)
    torch.set_num_threads(1)
    rows = pq.read_table(manifest).to_pylist()
    chosen = [check_row(rows[n], n, 0, None) for n in range(start, len(rows), step)]
    requests = [load_request(row, "/") for row in chosen]
    engine = Engine(load_models(TINY64), TINY64, slots)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.time()
    ends = []
    for translation in translate(engine, requests):
        assert translation.status == "done", translation.error
        ends.append(time.time())
    print(json.dumps({"started": started, "ends": ends}), flush=True)


def measure_bare(manifest: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Steady and whole rate of the engine in processes of its own."""
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.job_overhead", "--bare-worker", str(manifest)]
    workers = [
        subprocess.Popen(
            [*command, str(number), str(arguments.actors), str(arguments.slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(arguments.actors)
    ]
    ends: list[list[float]] = []
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline().strip() == "ready"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        output, _ = worker.communicate()
        ends.append(json.loads(output)["ends"])
    seconds = time.time() - started
    first_idle = min(of_worker[-1] for of_worker in ends)
    rate = sum(rate_of(of_worker, 0.0, first_idle, arguments.slots) for of_worker in ends)
    return {"steady": rate, "whole": arguments.rows / seconds}


def measure_job(manifest: Path, output: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Steady and whole rate of the job, and where its time went."""
    from dstc.planning.settings import make_settings
    from dstc.translate import run

    settings = make_settings(
        manifest=str(manifest),
        output=str(output),
        actors=arguments.actors,
        slots=arguments.slots,
        rows_per_shard=arguments.rows_per_shard,
        device="cpu",
    )
    started = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        code = run(settings)
    ended = time.time()
    assert code == 0, f"the job ended with {code}"
    timeline = Timeline(output, arguments.slots)
    last = max(actor.ended for actor in timeline.actors.values())
    return {
        "steady": timeline.rate,
        "whole": arguments.rows / (ended - started),
        "seconds": ended - started,
        "before": timeline.all_at_work - started,
        "uneven": last - timeline.first_idle,
        "after": ended - last,
        "fetch": timeline.seconds_per_row("fetch"),
        "write": timeline.seconds_per_row("write"),
        "occupancy": timeline.occupancy,
    }


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=48, help="of each run (48)")
    parser.add_argument("--actors", type=int, default=2, help="processes (2)")
    parser.add_argument("--slots", type=int, default=4, help="of each (4)")
    parser.add_argument("--rows-per-shard", type=int, default=4, help="of the job (4)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--bare-worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_worker:
        manifest, *numbers = arguments.bare_worker
        run_bare_worker(manifest, *map(int, numbers))
        return
    bare, job = [], []
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder), arguments.rows)
        for pair in range(arguments.pairs):
            bare.append(measure_bare(manifest, arguments))
            job.append(measure_job(manifest, Path(folder) / f"run-{pair}", arguments))
            print(f"pair {pair}: bare {bare[-1]}, job {job[-1]}", file=sys.stderr, flush=True)
    of_bare, of_job = _median(bare), _median(job)
    shares = [j["steady"] / b["steady"] for b, j in zip(bare, job, strict=True)]
    rows: list[tuple[str, Any]] = [
        ("bare engine, steady", f"{of_bare['steady']:.3f} rows/s"),
        ("job, steady", f"{of_job['steady']:.3f} rows/s"),
        ("job / bare, steady", f"{statistics.median(shares):.1%}"),
        ("  of each pair", ", ".join(f"{share:.1%}" for share in shares)),
        ("bare engine, whole", f"{of_bare['whole']:.3f} rows/s"),
        ("job, whole", f"{of_job['whole']:.3f} rows/s in {of_job['seconds']:.0f} s"),
        ("  until all actors work", f"{of_job['before']:.1f} s"),
        ("  one actor idle at the end", f"{of_job['uneven']:.1f} s"),
        ("  after the last shard", f"{of_job['after']:.1f} s"),
        ("  fetching a row, beside the engine", f"{of_job['fetch'] * 1e3:.0f} ms"),
        ("  writing a row, beside the engine", f"{of_job['write'] * 1e3:.0f} ms"),
        ("slots busy", f"{of_job['occupancy']:.1%}"),
    ]
    heading: Any = f"{arguments.rows} rows, {arguments.actors} actors of {arguments.slots} slots"
    print_table([heading, "median"], rows)


if __name__ == "__main__":
    main()
