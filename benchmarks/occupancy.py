"""How full an actor's slots are with 1, 2 and 3 shards at a time, when rows are of unequal length.

    python -m benchmarks.occupancy

One `TranslateShard` in this process, without Ray; threads call it as Ray's do. Lengths differ as
they do in the method, by restarts: a chain has 20 steps, and with probability 0.25 it is given up
after a uniformly drawn number of them and starts again, at most 3 times. The draws come from the
row's seed, so every run sees the same lengths. A step sleeps, whatever its slots hold.

`occupancy` counts slots that held a row, over all steps, the last tail included; `least` is the
wall time that full slots would take.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.actors import write_manifest
from benchmarks.table import print_table
from dstc.planning.settings import make_settings
from dstc.store.manifest import open_manifest
from dstc.store.packed_rows import unpack_rows
from dstc.store.run_folder import RunFolder
from dstc.worker.read_shards import ManifestShards
from dstc.worker.shard_task import ShardTask
from dstc.worker.translate_shard import TranslateShard
from dstc_engine.fake import FakeEngine
from dstc_engine.request import StepLosses, Translation, TranslationRequest

CHAIN, RESTART_PROBABILITY, MAX_RESTARTS = 20, 0.25, 3


def steps_of(seed: int) -> int:
    """Steps of a row with this seed, those before restarts included."""
    generator = np.random.default_rng(seed)
    steps = CHAIN
    for _ in range(MAX_RESTARTS):
        if generator.random() >= RESTART_PROBABILITY:
            break
        steps += int(generator.integers(1, CHAIN))
    return steps


class UnequalEngine(FakeEngine):
    """A fake engine whose rows take `steps_of` their seed; counts the slots it kept busy."""

    busy = 0
    taken = 0

    def step(self) -> list[Translation]:
        """One step of every busy slot; the rows that finished with it."""
        while self._waiting and len(self._running) < self.slots:
            self._running.append((self._waiting.popleft(), []))
        time.sleep(self.step_seconds)
        self.busy += len(self._running)
        self.taken += 1
        for _, losses in self._running:
            losses.append(StepLosses(0, "sample", {}))
        ended = [pair for pair in self._running if len(pair[1]) >= steps_of(pair[0].seed)]
        self._running = [pair for pair in self._running if pair not in ended]
        return [self._finished(request, losses) for request, losses in ended]

    def _finished(self, request: TranslationRequest, losses: list[StepLosses]) -> Translation:
        return self._end(request, losses[-1:])


def measure(calls: int, rows_per_shard: int, arguments: argparse.Namespace) -> dict[str, float]:
    """All shards of a manifest through one actor, so many at a time."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_manifest(Path(folder), arguments.rows)
        settings = make_settings(
            manifest=str(path),
            output=str(Path(folder) / "run"),
            engine="fake",
            slots=arguments.slots,
            rows_per_shard=rows_per_shard,
        )
        engines: list[UnequalEngine] = []

        def make_engine(slots: int) -> UnequalEngine:
            preset = settings.resolved_preset
            engines.append(UnequalEngine(preset, slots, step_seconds=arguments.step_seconds))
            return engines[-1]

        task = ShardTask(settings, RunFolder(settings.output), "benchmark", "benchmark")
        actor = TranslateShard(task, make_engine=make_engine)
        shards = _shards(str(path), rows_per_shard)
        lock = threading.Lock()
        seeds: list[int] = []

        def call() -> None:
            while True:
                with lock:
                    shard = next(shards, None)
                if shard is None:
                    return
                (record,) = actor(shard).to_pylist()
                seeds.extend(unpack_rows(record["rows"]).column("seed").to_pylist())

        started = time.perf_counter()
        with ThreadPoolExecutor(calls) as pool:
            for future in [pool.submit(call) for _ in range(calls)]:
                future.result()
        seconds = time.perf_counter() - started
        actor.close()
        (engine,) = engines
    steps = sum(map(steps_of, seeds))
    assert len(seeds) == arguments.rows and engine.busy == steps
    return {
        "occupancy": engine.busy / (engine.taken * arguments.slots),
        "seconds": seconds,
        "least": steps / arguments.slots * arguments.step_seconds,
    }


def _shards(manifest: str, rows_per_shard: int) -> Iterator[pa.Table]:
    plan = open_manifest(manifest, rows_per_shard)
    source = ManifestShards(plan, range(plan.shards), plan.duplicates())
    return (block for task in source.get_read_tasks(1) for block in task())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="of the manifest (256)")
    parser.add_argument("--slots", type=int, default=8, help="of the engine (8)")
    parser.add_argument("--step-seconds", type=float, default=0.02, help="of a fake step (0.02)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case (3)")
    arguments = parser.parse_args()
    rows: list[list[Any]] = []
    for rows_per_shard in (arguments.slots, 2 * arguments.slots, 4 * arguments.slots):
        for calls in (1, 2, 3):
            runs = [measure(calls, rows_per_shard, arguments) for _ in range(arguments.repeats)]
            found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            rows.append(
                [
                    rows_per_shard,
                    calls,
                    f"{found['occupancy']:.1%}",
                    f"{found['seconds']:.1f} s",
                    f"{found['least']:.1f} s",
                ]
            )
    print_table(["rows per shard", "calls at once", "occupancy", "wall", "least"], rows)


if __name__ == "__main__":
    main()
