"""`ray job submit` for real: to a Ray head with its job server, from and to an S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.demo_rows import demo_rows, put_demo
from deploy.local_cluster import BUCKET, LocalCluster

REPOSITORY = Path(__file__).resolve().parents[2]
# Something of the runtime environment that may be seen, and that must arrive.
VARIABLE = "DSTC_TEST_VARIABLE"


@dataclass(frozen=True)
class Ended:
    """How `ray job submit` ended: its exit code, and the log of the job as it showed it."""

    code: int
    log: str


class Submitter:
    """The cluster of these tests, with a manifest of the demo's images in its bucket."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.storage = cluster.filesystem()

    def submit(self, *arguments: str) -> Ended:
        runtime_env = {"env_vars": {"OMP_NUM_THREADS": "1", VARIABLE: "seen"}}
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        command += ["--address", self.cluster.dashboard, "--working-dir", "."]
        command += ["--runtime-env-json", json.dumps(runtime_env), "--"]
        ended = subprocess.run(
            [*command, "python", "jobs/translate.py", *arguments],
            cwd=REPOSITORY,
            env=os.environ | dict(self.cluster.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
        return Ended(ended.returncode, ended.stdout)

    def manifest(self, name: str, rows: int) -> str:
        """The demo's images and a manifest of so many rows below a folder of this name."""
        return f"s3://{put_demo(self.storage, f'{BUCKET}/{name}', rows)}"

    def results(self, output: str) -> list[dict[str, Any]]:
        """All result rows of a run."""
        parts = sorted(self.storage.glob(f"{output}/results/part-*.parquet"))
        tables = [pq.read_table(pa.BufferReader(self.storage.cat_file(part))) for part in parts]
        return list(pa.concat_tables(tables).to_pylist())

    def written(self, output: str) -> dict[str, Any]:
        """When each image and each part of a run was written."""
        found: dict[str, Any] = {}
        for folder in ("images", "results"):
            inside = self.storage.find(f"{output}/{folder}", detail=True)
            found |= {
                name: (entry["ETag"], entry["LastModified"]) for name, entry in inside.items()
            }
        return found

    def working_directories(self) -> list[Path]:
        """The working directories that jobs brought, as they lie on the node."""
        session = self.cluster.folder / "ray" / "session_latest" / "runtime_resources"
        return [path for path in (session / "working_dir_files").iterdir() if path.is_dir()]

    def job_records(self) -> str:
        """What the job server tells every client that has the token, about all jobs."""
        token = {"Authorization": f"Bearer {self.cluster.environment['RAY_AUTH_TOKEN']}"}
        asked = urllib.request.Request(f"{self.cluster.dashboard}/api/jobs/", headers=token)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def submitter(no_ray: None) -> Iterator[Submitter]:
    with LocalCluster(num_cpus=2) as cluster:
        yield Submitter(cluster)


FAKE = ("--engine", "fake", "--rows-per-shard", "50")


def test_a_job_translates_every_row_and_submitted_again_runs_none(submitter: Submitter) -> None:
    manifest = submitter.manifest("many", 200)
    output = f"{BUCKET}/many-run"

    first = submitter.submit(manifest, f"s3://{output}", *FAKE)
    assert first.code == 0, first.log
    assert "/200 rows (" in first.log, "progress"
    assert [line.split() for line in first.log.splitlines() if line.startswith("done ")] == [
        ["done", "200"]
    ], first.log
    rows = submitter.results(output)
    assert sorted(row["id"] for row in rows) == sorted(demo_rows(200).column("id").to_pylist())
    assert {row["status"] for row in rows} == {"done"}
    written = submitter.written(output)
    assert {f"{output}/{row['image']}" for row in rows} <= written.keys()

    again = submitter.submit(manifest, f"s3://{output}", *FAKE)
    assert again.code == 0, again.log
    assert submitter.written(output) == written


def test_the_working_directory_is_small_and_has_no_weights(submitter: Submitter) -> None:
    brought = submitter.working_directories()
    assert brought, "the job before this one brought one"
    for folder in brought:
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert folder / "jobs" / "translate.py" in files
        assert folder / "dstc_engine" / "weights" / "tiny" / "prior.json" in files
        assert not [path for path in files if path.suffix in (".safetensors", ".pt", ".parquet")]
        assert sum(path.stat().st_size for path in files) < 5e6


def test_ray_shows_what_jobs_name_and_credentials_of_the_nodes_to_nobody(
    submitter: Submitter,
) -> None:
    records = submitter.job_records()
    # Why credentials must not be variables of a job: this is how they would appear.
    assert f'"{VARIABLE}": "seen"' in records
    secrets = [
        submitter.cluster.environment[name] for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN")
    ]
    logs = (submitter.cluster.folder / "ray" / "session_latest" / "logs").rglob("*")
    for text in (records, *(path.read_text(errors="replace") for path in logs if path.is_file())):
        assert not [secret for secret in secrets if secret in text]


def test_the_tiny_networks_are_found_on_the_node(submitter: Submitter) -> None:
    output = f"{BUCKET}/real-run"
    short = ("--set", "respacing=20", "--set", "skip=8", "--slots", "4", "--rows-per-shard", "4")
    ended = submitter.submit(submitter.manifest("real", 4), f"s3://{output}", *short)
    assert ended.code == 0, ended.log
    rows = submitter.results(output)
    assert [row["status"] for row in rows] == ["done"] * 4
    # The real engine: each guided step has left its losses.
    assert all(row["losses"] and row["losses"][0]["structure"] is not None for row in rows)


def test_an_unusable_column_is_named_and_fails_the_submission(submitter: Submitter) -> None:
    columns = {"id": ["a"], "content": ["demo/noto/castle.png"], "prompt": [7]}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    submitter.storage.pipe_file(f"{BUCKET}/wrong/manifest.parquet", buffer.getvalue().to_pybytes())
    ended = submitter.submit(f"s3://{BUCKET}/wrong/manifest.parquet", f"s3://{BUCKET}/wrong-run")
    assert ended.code == 1 and "command failed with exit code 2" in ended.log, ended.log
    (line,) = {each for each in ended.log.splitlines() if each.startswith("error: ")}
    assert "manifest.parquet" in line and "'prompt'" in line and "string" in line
    assert not submitter.storage.exists(f"{BUCKET}/wrong-run")
