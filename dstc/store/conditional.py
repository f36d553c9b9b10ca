"""Compare-and-swap on one file: a write that happens only if nobody has written since.

| storage | condition |
| --- | --- |
| local, NFS | a link for a new file, a lock on the file itself for a replacement |
| S3 | `If-None-Match: *`, `If-Match: ETag` |
| Google Cloud Storage | `ifGenerationMatch` |
| Azure | `If-None-Match: *`, `If-Match: ETag` |
| any other, or one that ignores them | a look before the write |

`honors_conditions` says whether a storage really does it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from dstc.store import storage
from dstc.store.retries import PROMPT, Patience, note_moved, with_retries
from dstc.store.temporary_files import temporary_beside
from dstc_engine.durable import make_folder, move_into_place, sync_folder

Result = TypeVar("Result")

# Of file systems without locks or links, and of servers without conditions (501).
_UNSUPPORTED = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EMLINK}
)
_LOCK_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Versioned:
    """A file as it was at one moment.

    Attributes:
        data: whole. version: what `swap` compares; no one before it or behind it has the same.
    """

    data: bytes
    version: str


class _ChangedError(FileExistsError):
    """Somebody has written, or removed, the file since."""


def read(uri: str, patience: Patience = PROMPT) -> Versioned | None:
    """The file and its version; None when there is none.

    Raises:
        StorageError: the URI's protocol cannot be used.
        OSError: storage did not answer until patience ended.
    """
    kind, filesystem, path = _open(uri)
    try:
        if kind not in _VERSION_KEYS:
            data = storage.read_bytes(uri, patience)
            return Versioned(data, _digest(data))
        # The version first: where a writer comes in between, its swap fails, which is safe.
        facts = with_retries(lambda: _facts(kind, filesystem, path), patience)
        return Versioned(storage.read_bytes(uri, patience), str(facts[_VERSION_KEYS[kind]]))
    except FileNotFoundError:
        return None


def swap(uri: str, data: bytes, expected: str | None, patience: Patience = PROMPT) -> str | None:
    """Writes a file if it is still the one that was read.

    Args:
        data: whole. expected: version that was read; None where there was no file.

    Returns:
        The new version; None when the file is another by now, and was left as it is.

    Raises:
        StorageError: the URI's protocol cannot be used.
        OSError: storage did not answer until patience ended; the write may have happened.

    Example:
        >>> swap("s3://bucket/run/lease.json", b"mine", None)
        '"5f4dcc3b5aa765d61d8327deb882cf99"'
        >>> swap("s3://bucket/run/lease.json", b"yours", None) is None
        True
    """
    kind, filesystem, path = _open(uri)
    put = _PUTS.get(kind, _put_after_a_look)
    try:
        version = with_retries(
            lambda: _or_after_a_look(put, _put_after_a_look, filesystem, path, data, expected),
            patience,
        )
    except _ChangedError:
        # An answer that was lost on its way makes our own first attempt look like another's.
        found = read(uri, patience)
        return found.version if found is not None and found.data == data else None
    note_moved("written", len(data))
    return version


def remove(uri: str, expected: str, patience: Patience = PROMPT) -> None:
    """Removes a file if it is still the one that was read.

    Raises:
        OSError: storage did not answer until patience ended.
    """
    kind, filesystem, path = _open(uri)
    action = _REMOVES.get(kind, _remove_after_a_look)
    with contextlib.suppress(FileNotFoundError, _ChangedError):
        with_retries(
            lambda: _or_after_a_look(action, _remove_after_a_look, filesystem, path, expected),
            patience,
        )


def honors_conditions(uri: str, data: bytes) -> bool:
    """Whether this storage refuses a write whose condition does not hold.

    Args:
        uri: of a file that is there. data: what it holds, since a storage that ignores conditions
            writes it again.

    Raises:
        OSError: storage does not answer.
    """
    kind, filesystem, path = _open(uri)
    if kind == "file":
        try:
            with _locked(Path(path)):
                return True
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
    if kind not in _PUTS:
        return False
    wrong = {"s3": f'"{"0" * 32}"', "gs": "1", "abfs": '"0x1"'}[kind]
    for expected in (None, wrong):
        try:
            with_retries(partial(_PUTS[kind], filesystem, path, data, expected))
            return False
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            if not isinstance(error, _ChangedError):
                raise
    return True


def _or_after_a_look(
    action: Callable[..., Result], otherwise: Callable[..., Result], *arguments: Any
) -> Result:
    """Acts with a condition, or, where this storage knows none, with a look before."""
    try:
        return action(*arguments)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return otherwise(*arguments)


# -- object stores ---------------------------------------------------------------------------------


_KINDS = {
    **dict.fromkeys(("file", "local"), "file"),
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "abfs"),
}
_VERSION_KEYS = {"s3": "ETag", "gs": "generation", "abfs": "etag"}


def _open(uri: str) -> tuple[str, Any, str]:
    filesystem, path = storage.open_filesystem(uri)
    protocol = filesystem.protocol
    name = protocol if isinstance(protocol, str) else protocol[0]
    return _KINDS.get(name, name), filesystem, path


def _facts(kind: str, filesystem: Any, path: str) -> Mapping[str, Any]:
    if kind != "s3":
        return dict(filesystem.info(path))
    bucket, key, _ = filesystem.split_path(path)
    # Not `info`, which lists the folder where there is no object.
    return dict(filesystem.call_s3("head_object", Bucket=bucket, Key=key))


def _put_s3(filesystem: Any, path: str, data: bytes, expected: str | None) -> str:
    bucket, key, _ = filesystem.split_path(path)
    condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
    with _refusals(expected):
        # Not `pipe_file`, which does the same and keeps the new ETag to itself.
        answer = filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
    return str(answer["ETag"])


def _remove_s3(filesystem: Any, path: str, expected: str) -> None:
    bucket, key, _ = filesystem.split_path(path)
    with _refusals(expected):
        filesystem.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=expected)


def _put_gs(filesystem: Any, path: str, data: bytes, expected: str | None) -> str:
    bucket, key, _ = filesystem.split_path(path)
    # The request of gcsfs's own `pipe_file`, which knows no generation but 0.
    boundary = uuid.uuid4().hex
    types = ("application/json; charset=UTF-8", "application/octet-stream")
    bodies = (json.dumps({"name": key}).encode(), data)
    parts = [
        b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (boundary.encode(), kind.encode(), body)
        for kind, body in zip(types, bodies, strict=True)
    ]
    with _refusals(expected):
        answer = filesystem.call(
            "POST",
            f"{filesystem._location}/upload/storage/v1/b/{quote(bucket)}/o",
            uploadType="multipart",
            ifGenerationMatch=expected or "0",
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
            data=b"".join(parts) + b"--%b--" % boundary.encode(),
            json_out=True,
        )
    return str(answer["generation"])


def _remove_gs(filesystem: Any, path: str, expected: str) -> None:
    bucket, key, _ = filesystem.split_path(path)
    with _refusals(expected):
        filesystem.call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=expected)


def _put_abfs(filesystem: Any, path: str, data: bytes, expected: str | None) -> str:
    condition: dict[str, Any] = {"mode": "create"}
    if expected is not None:
        conditions = importlib.import_module("azure.core").MatchConditions  # of adlfs's own needs
        condition = {"etag": expected, "match_condition": conditions.IfNotModified}
    with _refusals(expected):
        answer = filesystem.pipe_file(path, data, **condition)
    return str(answer["etag"])


@contextlib.contextmanager
def _refusals(expected: str | None) -> Iterator[None]:
    """Tells a condition that did not hold from all other errors of a driver."""
    try:
        yield
    except FileExistsError as error:
        raise _ChangedError(str(error)) from error
    except Exception as error:
        # AWS answers If-Match on an object that is gone with 404; for a new one that is the bucket.
        if _status(error) == 412 or (expected is not None and _status(error) == 404):
            raise _ChangedError(str(error)) from error
        raise


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of s3fs (its cause is botocore's), gcsfs or adlfs."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = getattr(error, "status_code", None) or getattr(error, "code", None)
    return int(str(found)) if str(found).isdigit() else None


# -- local file systems, and any without conditions ------------------------------------------------


def _put_local(filesystem: Any, path: str, data: bytes, expected: str | None) -> str:
    target = Path(path)
    make_folder(target.parent)
    temporary = temporary_beside(target)
    try:
        temporary.write_bytes(data)  # in here: a full disk leaves half a file
        if expected is None:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(temporary, target)  # where the name is taken it fails, on NFS too
            except FileExistsError as error:
                raise _ChangedError(path) from error
            sync_folder(target.parent)
        else:
            with _locked(target) as held:
                if held is None or _digest(held.read()) != expected:
                    raise _ChangedError(path)
                move_into_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return _digest(data)


def _remove_local(filesystem: Any, path: str, expected: str) -> None:
    with _locked(Path(path)) as held:
        if held is None or _digest(held.read()) != expected:
            raise _ChangedError(path)
        Path(path).unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO | None]:
    """The file, locked against all who would replace it; None when there is none."""
    end = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        file: BinaryIO
        try:
            file = path.open("rb+")  # NFS locks no file that is open for reading only
        except PermissionError:
            file = path.open("rb")
        except FileNotFoundError:
            yield None
            return
        with file:
            try:
                # Of the open file and not of the process, so threads exclude each other too.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"locked for over {_LOCK_PATIENCE_S:.0f} s", str(path)
                    ) from error
                time.sleep(0.01)
                continue
            # Whoever waited for the lock may hold the file that was replaced meanwhile.
            if _is_file_at(file, path):
                yield file
                return


def _is_file_at(file: BinaryIO, path: Path) -> bool:
    try:
        with path.open("rb") as now:  # opened and not only looked up, which NFS answers from memory
            return os.path.samestat(os.fstat(file.fileno()), os.fstat(now.fileno()))
    except FileNotFoundError:
        return False


def _put_after_a_look(filesystem: Any, path: str, data: bytes, expected: str | None) -> str:
    uri = filesystem.unstrip_protocol(path)
    found = read(uri)
    if (found.version if found else None) != expected:
        raise _ChangedError(path)
    storage.write_bytes(uri, data)
    written = read(uri)
    return written.version if written else ""


def _remove_after_a_look(filesystem: Any, path: str, expected: str) -> None:
    uri = filesystem.unstrip_protocol(path)
    found = read(uri)
    if found is None or found.version != expected:
        raise _ChangedError(path)
    filesystem.rm_file(path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_PUTS: dict[str, Callable[[Any, str, bytes, str | None], str]] = {
    "file": _put_local,
    "s3": _put_s3,
    "gs": _put_gs,
    "abfs": _put_abfs,
}
_REMOVES: dict[str, Callable[[Any, str, str], None]] = {
    "file": _remove_local,
    "s3": _remove_s3,
    "gs": _remove_gs,
}
