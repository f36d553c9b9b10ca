"""How long planning takes, and how much memory of the driver, as manifests grow.

    python -m benchmarks.planning

Manifests are made on local disk: ids and URIs of about 25 and 40 letters, a prompt. Each case runs
`make_plan` in a process of its own, so its peak is its own: resident memory above what the process
held after its imports. Printed are medians.

- `plan`: a fresh run: footers, duplicate ids, shards, the (empty) run folder.
- `read tasks`: what the driver then hands to Ray Data: all `ReadTask`s, made and pickled.
- `replan`: the same command again when every shard is done. The parts are empty files: planning
  lists their names and opens none of them, so only their number matters. On object storage the
  listing takes a request for each 1,000 names.

The fake engine is planned, which has no weights; real ones are hashed once, 25 MB for tiny64.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.memory import PeakMemory
from benchmarks.table import print_table

CASES = ((1_000, 1), (100_000, 1), (10_000_000, 1), (10_000_000, 1_000))
_PROMPTS = np.array(["a watercolour", "an oil painting of a street", "a pencil drawing"])
_ROWS_AT_ONCE = 1 << 20


def write_manifest(folder: Path, rows: int, files: int) -> None:
    """A manifest of so many rows in so many files, ids unique."""
    folder.mkdir(parents=True)
    bounds = np.linspace(0, rows, files + 1).astype(int).tolist()
    for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        chunks = [
            _rows(low, min(low + _ROWS_AT_ONCE, stop)) for low in range(start, stop, _ROWS_AT_ONCE)
        ]
        path = folder / f"{number:05d}.parquet"
        pq.write_table(pa.concat_tables(chunks), path, row_group_size=_ROWS_AT_ONCE)


def _rows(start: int, stop: int) -> pa.Table:
    numbers = np.arange(start, stop)
    texts = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), 10, "0")
    return pa.table(
        {
            "id": pc.binary_join_element_wise("streets/oslo", texts, "/"),
            "content": pc.binary_join_element_wise("s3://images/oslo/", texts, ".jpg", ""),
            "prompt": pa.array(_PROMPTS[numbers % len(_PROMPTS)]),
        }
    )


def measure(manifest: str, output: str, rows_per_shard: int, create: bool) -> dict[str, float]:
    """Plans once in this process; with `create`, makes the run folder afterwards."""
    from dstc.planning.plan import make_plan
    from dstc.planning.run_identity import open_or_create
    from dstc.planning.settings import make_settings
    from dstc.worker.read_shards import ManifestShards

    settings = make_settings(
        manifest=manifest, output=output, engine="fake", rows_per_shard=rows_per_shard
    )
    memory = PeakMemory()
    started = time.perf_counter()
    plan = make_plan(settings)
    planned = time.perf_counter()
    peak = memory.megabytes()
    tasks = ManifestShards(plan.manifest, plan.pending, plan.duplicates).get_read_tasks(1)
    pickled = sum(len(pickle.dumps(task)) for task in tasks)
    ended = time.perf_counter()
    if create:
        open_or_create(plan.job)
    return {
        "plan_s": planned - started,
        "plan_mb": peak,
        "shards": plan.manifest.shards,
        "pending": len(plan.pending),
        "tasks": len(tasks),
        "tasks_s": ended - planned,
        "tasks_mb": pickled / 1e6,
    }


def _in_own_process(
    manifest: Path, output: Path, arguments: argparse.Namespace
) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.planning", "--measure", manifest, output]
    command += ["--rows-per-shard", arguments.rows_per_shard]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def _empty_parts(folder: Path, shards: int) -> Path:
    """A folder of so many empty part files; made once, since 625,000 files take a minute."""
    from dstc.store.run_folder import RunFolder

    parts = folder / f"parts-{shards}"
    if not parts.exists():
        parts.mkdir()
        for shard in range(shards):
            (parts / Path(RunFolder("").part(shard)).name).touch()
    return parts


def _save_ledger(output: Path, shards: int, rows: int) -> None:
    """What a driver leaves that finished so many shards."""
    from dstc.store.ledger import Ledger
    from dstc.store.run_folder import RunFolder

    ledger = Ledger(RunFolder(str(output)))
    for shard in range(shards):
        ledger.record(shard, {"done": {None: rows}}, size=0)
    ledger.save()


def _case(base: Path, rows: int, files: int, arguments: argparse.Namespace) -> list[str]:
    manifest, output = base / f"{rows}-{files}", base / f"run-{rows}-{files}"
    write_manifest(manifest, rows, files)
    fresh = []
    for _ in range(arguments.repeats):
        shutil.rmtree(output, ignore_errors=True)
        fresh.append(_in_own_process(manifest, output, arguments))
    (output / "results").symlink_to(_empty_parts(base, int(fresh[0]["shards"])))
    _save_ledger(output, int(fresh[0]["shards"]), arguments.rows_per_shard)
    again = [_in_own_process(manifest, output, arguments) for _ in range(arguments.repeats)]
    assert all(found["pending"] == 0 for found in again)
    return [
        f"{rows:,}",
        f"{files:,}",
        f"{int(fresh[0]['shards']):,}",
        f"{_median(fresh, 'plan_s'):.2f} s",
        f"{_median(fresh, 'plan_mb'):.0f} MB",
        f"{int(fresh[0]['tasks']):,}",
        f"{_median(fresh, 'tasks_s'):.2f} s",
        f"{_median(fresh, 'tasks_mb'):.1f} MB",
        f"{_median(again, 'plan_s'):.2f} s",
        f"{_median(again, 'plan_mb'):.0f} MB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case (3)")
    parser.add_argument("--rows-per-shard", type=int, default=16, help="as of the job (16)")
    parser.add_argument("--max-rows", type=int, default=CASES[-1][0], help="leave larger cases out")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        manifest, output = arguments.measure
        print(json.dumps(measure(manifest, output, arguments.rows_per_shard, create=True)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as base:
        for size, files in CASES:
            if size <= arguments.max_rows:
                rows.append(_case(Path(base), size, files, arguments))
                print(f"{size:,} rows in {files:,} files: {rows[-1][3]}", file=sys.stderr)
    columns = ["rows", "files", "shards", "plan", "peak", "read tasks", "made", "pickled"]
    print_table([*columns, "replan", "peak"], rows)


if __name__ == "__main__":
    main()
