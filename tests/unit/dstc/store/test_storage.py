from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dstc.errors import StorageError
from dstc.store import retries, storage, urls
from dstc.store.retries import Patience
from dstc.text import redact


@pytest.mark.parametrize(
    ("uri", "folder", "expected"),
    [
        ("a/b.png", "/data", "/data/a/b.png"),
        ("a/b.png", "s3://bucket/set", "s3://bucket/set/a/b.png"),
        ("../b.png", "s3://bucket/set/one", "s3://bucket/set/b.png"),
        ("../../../b.png", "s3://bucket/set", "s3://bucket/b.png"),
        ("/a/b.png", "s3://bucket/set", "/a/b.png"),
        ("s3://other/b.png", "/data", "s3://other/b.png"),
        ("https://host/b.png?x=1", "/data", "https://host/b.png?x=1"),
    ],
)
def test_relative_uris_start_at_the_folder(uri: str, folder: str, expected: str) -> None:
    assert urls.resolve(uri, folder) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("at https://h/a.png?X-Amz-Signature=s3cr3t there", "at https://h/a.png?... there"),
        ("nothing: to see? here", "nothing: to see? here"),
    ],
)
def test_redact_takes_out_credentials_and_signatures(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError) as refusal:
        urls.refuse_credentials("s3://key:secret@bucket/run", "output")
    assert "secret" not in str(refusal.value)


def test_unknown_protocol_is_a_clear_error() -> None:
    with pytest.raises(StorageError, match="nosuch://x"):
        storage.read_bytes("nosuch://x")


def test_write_read_list(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    assert storage.list_names(folder) == []
    storage.write_bytes(f"{folder}/deep/a.bin", b"1")
    storage.write_bytes(f"{folder}/deep/a.bin", b"22")
    assert storage.read_bytes(f"{folder}/deep/a.bin") == b"22"
    assert storage.list_names(f"{folder}/deep") == ["a.bin"]
    assert storage.exists(f"{folder}/deep/a.bin") and not storage.exists(f"{folder}/b")
    assert os.listdir(f"{folder}/deep") == ["a.bin"], "no temporary file stays"


def test_unfinished_writes_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".1-abc.tmp").write_bytes(b"half")
    assert storage.list_names(str(tmp_path)) == []


class Clock:
    """Time that only passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def failing(error: Exception, times: int = 10**9) -> tuple[Callable[[], str], list[int]]:
    """An action that raises so often, then returns "done"; and its calls."""
    calls = [0]

    def action() -> str:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return "done"

    return action, calls


def retry(action: Callable[[], str], patience: Patience, clock: Clock) -> str:
    return retries.with_retries(action, patience, sleep=clock.sleep, clock=lambda: clock.now)


def test_transient_errors_are_tried_again_with_growing_pauses() -> None:
    clock = Clock()
    action, calls = failing(ConnectionError(), times=9)
    assert retry(action, Patience(300), clock) == "done"
    assert calls == [10]
    assert clock.pauses[0] <= retries.FIRST_PAUSE_S < max(clock.pauses) <= retries.LONGEST_PAUSE_S


@pytest.mark.parametrize("seconds", [0.0, 5.0, 300.0])
def test_patience_ends_after_its_seconds_and_never_before_three_attempts(seconds: float) -> None:
    clock = Clock()
    action, calls = failing(TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        retry(action, Patience(seconds), clock)
    assert calls[0] >= 3
    assert seconds - retries.LONGEST_PAUSE_S <= clock.now <= max(seconds, 1.0)


def test_an_environment_variable_changes_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setenv("DSTC_TEST_PATIENCE", "40")
    with pytest.raises(OSError):
        retry(failing(OSError("reset"))[0], Patience(1, variable="DSTC_TEST_PATIENCE"), clock)
    assert 30 <= clock.now <= 40


class NoCredentialsError(Exception):
    """Named as botocore's."""


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(),
        PermissionError(),
        ValueError(),
        OSError(errno.ENOSPC, "no space"),
        NoCredentialsError(),
    ],
)
def test_permanent_errors_are_raised_at_once(error: Exception) -> None:
    action, calls = failing(error)
    with pytest.raises((OSError, ValueError)):
        retry(action, Patience(300), Clock())
    assert calls == [1]


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(("status", "is_permanent"), [(403, True), (429, False), (503, False)])
def test_http_errors_are_retried_by_their_status(status: int, is_permanent: bool) -> None:
    action, calls = failing(HttpError(status))
    with pytest.raises(OSError, match="HttpError"):
        retry(action, Patience(60), Clock())
    assert (calls == [1]) == is_permanent


class Shaky(MemoryFileSystem):
    """Breaks off every other read, as a lost connection does."""

    protocol = "shaky"
    calls = 0

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        Shaky.calls += 1
        data = bytes(super().cat_file(path, start, end, **options))
        return data[:-1] if Shaky.calls % 2 else data


def test_files_are_read_here_and_there_over_lost_connections() -> None:
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    data = bytes(range(256)) * 20_000
    filesystem, path = storage.open_filesystem("shaky://file")
    filesystem.pipe_file(path, data)
    with storage.open_input("shaky://file") as file:
        assert file.seek(0, os.SEEK_END) == len(data)
        file.seek(len(data) - 10)
        assert file.read() == data[-10:]
        file.seek(3)
        assert file.read(3_000_000) == data[3:3_000_003]
    assert Shaky.calls > 4


def test_s3_is_set_up_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("DSTC_S3_ADDRESSING", "path")
    filesystem, path = storage.open_filesystem("s3://bucket/a/key")
    assert path == "bucket/a/key"
    assert filesystem.endpoint_url == "http://127.0.0.1:1"
    assert filesystem.client_kwargs == {"region_name": "eu-central-1"}
    assert filesystem.config_kwargs["s3"] == {"addressing_style": "path"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    assert storage.open_filesystem("s3://bucket/a")[0].endpoint_url == "http://127.0.0.1:2"
    monkeypatch.setenv("DSTC_S3_ADDRESSING", "hosted")
    with pytest.raises(StorageError, match="DSTC_S3_ADDRESSING: found 'hosted'; expected 'auto'"):
        storage.open_filesystem("s3://bucket/a")
