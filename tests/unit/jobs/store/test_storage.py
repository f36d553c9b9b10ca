from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.errors import StorageError
from jobs.store import storage


@pytest.mark.parametrize(
    ("uri", "folder", "expected"),
    [
        ("a/b.png", "/data", "/data/a/b.png"),
        ("a/b.png", "s3://bucket/set", "s3://bucket/set/a/b.png"),
        ("/a/b.png", "s3://bucket/set", "/a/b.png"),
        ("s3://other/b.png", "/data", "s3://other/b.png"),
        ("https://host/b.png?x=1", "/data", "https://host/b.png?x=1"),
    ],
)
def test_relative_uris_start_at_the_folder(uri: str, folder: str, expected: str) -> None:
    assert storage.resolve(uri, folder) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("at https://h/a.png?X-Amz-Signature=s3cr3t there", "at https://h/a.png?... there"),
        ("nothing: to see? here", "nothing: to see? here"),
    ],
)
def test_redact_takes_out_credentials_and_signatures(text: str, expected: str) -> None:
    assert storage.redact(text) == expected


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError) as refusal:
        storage.refuse_credentials("s3://key:secret@bucket/run", "output")
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


def test_transient_errors_are_tried_again_with_growing_pauses() -> None:
    pauses: list[float] = []
    errors: list[Exception] = [OSError("reset"), TimeoutError(), ConnectionError()]

    def action() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert storage.with_retries(action, pauses.append) == "done"
    assert len(pauses) == 3 and pauses == sorted(pauses)


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), ValueError()])
def test_permanent_errors_are_raised_at_once(error: Exception) -> None:
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)):
        storage.with_retries(action, lambda pause: None)
    assert calls == 1


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(("status", "expected"), [(403, 1), (429, 5), (503, 5)])
def test_http_errors_are_retried_by_their_status(status: int, expected: int) -> None:
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        raise HttpError(status)

    with pytest.raises(HttpError):
        storage.with_retries(action, lambda pause: None)
    assert calls == expected
