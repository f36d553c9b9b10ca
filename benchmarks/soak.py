"""A long run under random faults, against a calm one of the same rows.

    python -m benchmarks.soak [--quick]

Over a real S3 server (SeaweedFS) and one Ray on this machine: rows through the fake engine, then
fewer through the networks of tiny64. Each manifest is translated twice: once left alone, and once
while actors, drivers and the server are killed, a second driver is started on the same folder, one
is frozen for longer than its lease, and storage refuses, throttles and drops bodies. `--seed` draws
which fault comes when. Afterwards `dstc verify` looks at the folder, and so does a plain S3 client:
rows lost and doubled, and the sums of all images against those of the calm run. The resident memory
of the driver and the actors is sampled once a second; FOLDER/memory-*.csv and .png show it.

Ends with code 1 if a row is lost, doubled or not done, or an image differs. Needs Linux and the
package's extra `dev`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import s3fs

from benchmarks.memory_over_time import MemoryLog, Slope, slope_of
from benchmarks.run_audit import Audit, audit
from benchmarks.storm import KINDS, LEASE_S, DisturbedRun, SoakError, actors, alive
from benchmarks.table import print_table
from deploy.demo_rows import demo_rows, put_demo
from dstc.ray_session import start_ray
from tests.fault_proxy import FaultProxy
from tests.s3_server import S3, S3Server, environment

ROOT = Path(__file__).resolve().parent.parent
_ACTORS = 2
_RETRIES = 2  # of rows that faults made fail


@dataclass(frozen=True)
class Load:
    """Rows of one engine, and how they are translated.

    Attributes:
        name: in the table. rows: of the manifest. rows_per_shard: committed together.
        faults: of the disturbed run. options: further arguments of `dstc translate`.
    """

    name: str
    rows: int
    rows_per_shard: int
    faults: int
    options: Sequence[str]

    @property
    def shards(self) -> int:
        """Of its one manifest file."""
        return -(-self.rows // self.rows_per_shard)


@dataclass
class Outcome:
    """A run that has ended, and what it left."""

    seconds: float
    found: Audit
    retried: int
    verified: str
    memory: list[tuple[str, Slope | None]]
    done: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)


class Soak:
    """The servers, and what is run on them.

    Args:
        folder: for plots, logs and the server's data.
    """

    def __init__(self, folder: Path, seed: int, minutes: float, s3: S3, proxy: FaultProxy) -> None:
        self._folder, self._seed, self._minutes = folder, seed, minutes
        self._s3, self._proxy = s3, proxy
        self._address: str = ray.get_runtime_context().gcs_address

    def translate(self, load: Load) -> tuple[Outcome, Outcome]:
        """The calm run and the disturbed one of the same rows."""
        rows = f"{load.name}-rows"
        storage = s3fs.S3FileSystem(
            key=self._s3.access_key, secret=self._s3.secret_key, endpoint_url=self._s3.endpoint
        )
        manifest = f"s3://{put_demo(storage, f'{self._s3.bucket}/{rows}', load.rows)}"
        calm = self._run(load, manifest, "calm", 0)
        return calm, self._run(load, manifest, "disturbed", load.faults)

    def _run(self, load: Load, manifest: str, kind: str, faults: int) -> Outcome:
        output = f"{load.name}-{kind}"
        command = [manifest, self._s3.uri(output), "--address", self._address, *load.options]
        command += ["--actors", str(_ACTORS), "--rows-per-shard", str(load.rows_per_shard)]
        with contextlib.closing(self._s3.server.client()) as client:
            run = DisturbedRun(
                command=command,
                output=output,
                client=client,
                bucket=self._s3.bucket,
                shards=load.shards,
                server=self._s3.server,
                proxy=self._proxy,
                log=self._folder / "drivers.log",
                seed=self._seed,
                number=faults,
                minutes=self._minutes,
            )
            memory = MemoryLog(lambda: {"driver": list(alive(run.drivers)), "actor": actors()})
            started = time.monotonic()
            with memory.running():
                run.run()
            seconds = time.monotonic() - started
            self._plot(memory, output)
            ids = demo_rows(load.rows)["id"].to_pylist()
            found, retried = audit(client, self._s3.bucket, output, ids), 0
            for _ in range(_RETRIES):
                failed = sum(found.not_done.values())
                if failed:
                    retried += failed
                    self._dstc("translate", *command, "--retry", "failed")
                    found = audit(client, self._s3.bucket, output, ids)
        return Outcome(
            seconds=seconds,
            found=found,
            retried=retried,
            verified=self._verify(output),
            memory=[
                (kind, slope_of([s for s in memory.samples if s.kind == kind]))
                for kind in ("driver", "actor")
            ],
            done=run.done,
            exits=run.exits,
        )

    def _verify(self, output: str) -> str:
        """What `dstc verify` says, in a few words."""
        if self._dstc("verify", "--help").returncode:
            return "no such command"
        ended = self._dstc("verify", self._s3.uri(output), "--json")
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            faults = len(json.loads(ended.stdout)["faults"])
            return f"exit {ended.returncode}, {faults} faults"
        return f"exit {ended.returncode}"

    def _dstc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dstc.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60 * self._minutes)

    def _plot(self, memory: MemoryLog, output: str) -> None:
        table = self._folder / f"memory-{output}.csv"
        columns = memory.write(table)
        if columns:
            plot = [sys.executable, str(ROOT / "docs" / "plot_curves.py"), "--over", "seconds"]
            plot += [str(table), str(table.with_suffix(".png")), *columns]
            subprocess.run(plot, check=True)


def print_outcomes(loads: Sequence[Load], outcomes: Sequence[tuple[Outcome, Outcome]]) -> bool:
    """The table of all runs; whether nothing was lost, doubled or different."""
    names, columns = [], []
    is_good = True
    for load, (calm, disturbed) in zip(loads, outcomes, strict=True):
        for kind, run in (("calm", calm), ("disturbed", disturbed)):
            found, differing = run.found, run.found.differences(calm.found)
            bad = [found.lost, found.doubled, found.strange, found.changed, differing]
            is_good &= not any(bad) and not found.not_done
            names.append(f"{load.name}, {kind}")
            facts: dict[str, object] = {"rows": load.rows, "seconds": f"{run.seconds:.0f}"}
            facts |= {kind: run.done[kind] for kind in KINDS}
            facts |= {
                "drivers by exit code": ", ".join(f"{c}: {n}" for c, n in run.exits.most_common()),
                "lost": len(found.lost),
                "doubled": len(found.doubled) + len(found.strange),
                "failed by faults, run again": run.retried,
                "not done": sum(found.not_done.values()),
                "sums of images equal": f"{load.rows - len(differing)} of {load.rows}",
                "sums other than their rows give": len(found.changed),
                "dstc verify": run.verified,
            }
            facts |= {
                f"memory of {kind}, MiB/min [95 %]": slope or "too short"
                for kind, slope in run.memory
            }
            columns.append(facts)
    print_table(["", *names], [[fact, *(c[fact] for c in columns)] for fact in columns[0]])
    return is_good


def loads_of(arguments: argparse.Namespace) -> list[Load]:
    """What is run: all, or the short form."""
    rows, tiny = arguments.rows, arguments.tiny_rows
    # Few rows at work for longer, so that faults meet them at work.
    step, per_shard = ("0.1", 5) if arguments.quick else ("0.05", 16)
    faults = max(10, min(100, rows // 100))
    loads = []
    if rows:
        options = ["--engine", "fake", "--fake-step-seconds", step, "--slots", "8"]
        loads.append(Load("fake", rows, per_shard, faults, options))
    if tiny:
        options = ["--device", "cpu", "--slots", "4"]
        loads.append(Load("tiny64", tiny, 4, min(20, max(1, tiny // 8)), options))
    return loads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, help="through the fake engine (20000; quick: 300; 0 for none)"
    )
    parser.add_argument("--tiny-rows", type=int, help="through tiny64 (200; quick: none)")
    parser.add_argument("--minutes", type=float, help="limit of each run (90; quick: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    parser.add_argument("--quick", action="store_true", help="the short form of `make test-all`")
    parser.add_argument("--folder", type=Path, help="for plots and logs (a temporary one)")
    arguments = parser.parse_args()
    defaults: dict[str, Any] = (
        {"rows": 300, "tiny_rows": 0, "minutes": 5.0}
        if arguments.quick
        else {"rows": 20_000, "tiny_rows": 200, "minutes": 90.0}
    )
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    loads = loads_of(arguments)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = S3Server(work / "s3")
        server.start()
        stack.callback(server.stop)
        bucket = f"soak-{uuid.uuid4().hex[:8]}"
        with contextlib.closing(server.client()) as client:
            client.create_bucket(Bucket=bucket)
        s3 = S3(server, server.endpoint, bucket, server.access_key, server.secret_key)
        proxy = stack.enter_context(FaultProxy(server.port, arguments.seed))
        # Ray's processes take the environment of the moment in which Ray starts.
        variables = {**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint, "DSTC_LEASE_S": LEASE_S}
        stack.enter_context(environment(variables))
        # Ray's news of processes that die goes to where progress goes.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        start_ray(None, num_cpus=4)
        stack.callback(ray.shutdown)
        # Else drivers would outlive the servers. After Ray has started, which has a handler too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        soak = Soak(folder, arguments.seed, arguments.minutes, s3, proxy)
        try:
            outcomes = [soak.translate(load) for load in loads]
        except SoakError as error:
            sys.exit(str(error))
    sys.exit(not print_outcomes(loads, outcomes))


if __name__ == "__main__":
    main()
