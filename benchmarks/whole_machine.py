"""All cores: the official pattern in one process against one engine per core, as the job runs them.

Called by `benchmarks/engine_speed.py`. PyTorch gives one process all cores by threads; a job's
actors have one thread each. Processes load their networks and take one step before the clock
starts; it stops when the last of them ends. Each engine gets whole waves of its slots.

Only for a machine without other work. Threads of one process wait for each other after every
operation: on two cores with a load of 6, one step of the official pattern took 14.5 s with two
threads and 1.2 s with one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.table import print_table
from benchmarks.ways import OFFICIAL_STEP, SPHERICAL_STEP, Way, mixed_rows, name_of


def run_worker(arguments: argparse.Namespace) -> None:
    """A process of its own: waits for a line on stdin, prints one when its rows have ended."""
    torch.set_num_threads(arguments.threads)
    rows = mixed_rows(arguments.start + arguments.rows)[arguments.start :]
    way = Way(arguments.precision, arguments.slots, arguments.preset)
    way.warm_up(rows)
    print("ready", flush=True)
    sys.stdin.readline()
    way.translate(rows)
    print("done", flush=True)


def measure(
    precision: str, preset: str, slots: int, processes: int, threads: int, rows: int
) -> float:
    """Images per second of so many processes at once.

    Args:
        preset: of `ways`. slots: of each engine; 0 is the official pattern. rows: of each process.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.whole_machine", precision, preset]
    workers = [
        subprocess.Popen(
            [*command, *map(str, (slots, threads, number * rows, rows))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline().strip() == "ready"
        started = time.perf_counter()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline().strip() == "done"
        seconds = time.perf_counter() - started
    finally:
        for worker in workers:
            worker.communicate()
    return processes * rows / seconds


def print_whole_machine(rows: int, slots: int, rounds: int, precisions: Sequence[str]) -> None:
    """Measures all ways in these precisions in turn, and prints the table.

    Args:
        rows: of the official pattern, and at least of all engines together. slots: of each engine.
        precisions: times are those of the official pattern in the first one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores is not None
    waves = -(-rows // (cores * slots))
    cases = [
        (precision, *how)
        for precision in precisions
        for how in (
            (OFFICIAL_STEP, 0, 1, cores, rows),
            (OFFICIAL_STEP, slots, cores, 1, waves * slots),
            (SPHERICAL_STEP, slots, cores, 1, waves * slots),
        )
    ]
    rates: list[list[float]] = [[] for _ in cases]
    for number in range(rounds):
        for case, found in zip(cases, rates, strict=True):
            found.append(measure(*case))
        speeds = ", ".join(f"{found[-1]:.3f}" for found in rates)
        print(f"whole machine, round {number}: images/s {speeds}", file=sys.stderr, flush=True)
    table = []
    for (precision, preset, of_each, processes, threads, _), found in zip(
        cases, rates, strict=True
    ):
        times = [mine / official for mine, official in zip(found, rates[0], strict=True)]
        table.append(
            [
                name_of(of_each, preset),
                precision,
                f"{processes} x {threads}",
                f"{statistics.median(found):.3f}",
                f"{statistics.median(times):.2f}",
            ]
        )
    columns = ["whole machine", "precision", "processes x threads", "images/s", "times official"]
    print_table(columns, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A process of benchmarks.engine_speed.")
    parser.add_argument("precision")
    parser.add_argument("preset")
    for name in ("slots", "threads", "start", "rows"):
        parser.add_argument(name, type=int)
    run_worker(parser.parse_args())
