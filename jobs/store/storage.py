"""The one way to storage: any fsspec URL (a local path, `s3://`, `https://`), with retries.

Endpoints, regions and credentials come from the environment (for S3: `AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID` and so on); none is ever read from a URL or put into a message. File systems are
made at first use in each process, since their threads do not survive a fork.
"""

from __future__ import annotations

import os
import posixpath
import random
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from jobs.errors import StorageError

Result = TypeVar("Result")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.2

# Errors that another attempt cannot mend. Everything else that storage raises (throttling, resets,
# timeouts, 5xx) is tried again; their types differ from driver to driver.
_PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ImportError,
    TypeError,
    ValueError,
)
# Folders are only names there, and asking to make one may try to make the bucket.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "r2"})

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


def redact(text: str) -> str:
    """The text without what may be secret in URLs: user and password, and everything after `?`."""
    return _QUERY.sub(r"\1?...", _USER_INFO.sub("", text))


def refuse_credentials(url: str, what: str) -> None:
    """Checks a URL that will be saved with the run.

    Raises:
        StorageError: it carries a user, a password or a query, which may be a signature.
    """
    if redact(url) != url:
        raise StorageError(
            f"{what} {redact(url)}: the URL carries credentials or a query, and it is saved with "
            "the run; give credentials through the environment (AWS_ACCESS_KEY_ID, ...)"
        )


def carries_user(uri: str) -> bool:
    """Whether a URI holds a user or a password."""
    return _USER_INFO.search(uri) is not None


def is_url(uri: str) -> bool:
    """Whether the text names its protocol, as in `s3://bucket/key`."""
    return _URL.match(uri) is not None


def join(folder: str, *names: str) -> str:
    """A path inside a folder; folders are local paths or URLs."""
    return posixpath.join(folder, *names)


def parent(uri: str) -> str:
    """The folder that holds a file; "." for a bare local name."""
    return posixpath.dirname(uri) or "."


def resolve(uri: str, folder: str) -> str:
    """A URI of a manifest as one that can be opened: relative ones start at `folder`."""
    if is_url(uri) or uri.startswith("/"):
        return uri
    return join(folder, uri)


def absolute(uri: str) -> str:
    """Local paths made absolute, since workers run in other folders; URLs as they are."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    return uri if is_url(uri) else str(Path(uri).expanduser().absolute())


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Raises:
        StorageError: the protocol is unknown, or its driver is not installed.
    """
    try:
        # No listing cache: workers elsewhere write while we look.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{redact(uri)}: {redact(str(error))}") from error
    return filesystem, str(path)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _PERMANENT):
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 425, 429)
    return True


def with_retries(
    action: Callable[[], Result], sleep: Callable[[float], None] = time.sleep
) -> Result:
    """Runs an action of storage, again after transient errors, with growing jittered pauses.

    Raises:
        Exception: what the action raised, at once when another attempt cannot mend it, else after
            `ATTEMPTS` attempts (about three seconds).
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except Exception as error:
            if not _is_transient(error):
                raise
        # Full jitter, so that a thousand workers that were throttled together do not return so.
        sleep(random.uniform(0.5, 1.0) * FIRST_PAUSE_S * 2**attempt)
    return action()


def read_bytes(uri: str) -> bytes:
    """The whole file.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the URI's protocol cannot be used.
        OSError: storage did not answer after some attempts.
    """
    filesystem, path = open_filesystem(uri)
    return bytes(with_retries(lambda: filesystem.cat_file(path)))


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a whole file, so that readers see the old one, the new one, never a part of it.

    Raises:
        StorageError: the URI's protocol cannot be used.
        OSError: storage refused after some attempts.
    """
    filesystem, path = open_filesystem(uri)
    if _protocol(filesystem) == "file":
        with_retries(lambda: _write_local(Path(path), data))
        return
    if _protocol(filesystem) not in _OBJECT_STORES:
        with_retries(lambda: filesystem.makedirs(parent(path), exist_ok=True))
    with_retries(lambda: filesystem.pipe_file(path, data))


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def exists(uri: str) -> bool:
    """Whether there is a file or folder of this name."""
    filesystem, path = open_filesystem(uri)
    return bool(with_retries(lambda: filesystem.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether the URI names a folder, or a prefix under which objects lie."""
    filesystem, path = open_filesystem(uri)
    return bool(with_retries(lambda: filesystem.isdir(path)))


def list_names(folder: str) -> list[str]:
    """Names directly inside a folder, sorted; an empty list when there is no such folder.

    Unfinished local writes (hidden temporary files) are left out.
    """
    filesystem, path = open_filesystem(folder)
    try:
        entries = with_retries(lambda: filesystem.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = {posixpath.basename(str(entry).rstrip("/")) for entry in entries}
    return sorted(name for name in names if name and not name.endswith(".tmp"))


def find_files(folder: str, suffix: str) -> list[str]:
    """URIs of all files below a folder that end in `suffix`, sorted; hidden ones left out.

    Names that start with `_` or `.`, or lie in such folders, are not data by convention.
    """
    filesystem, path = open_filesystem(folder)
    found = with_retries(lambda: filesystem.find(path))
    root = path.rstrip("/") + "/"
    inside = (str(entry).removeprefix(root) for entry in found)
    return [
        join(folder, name)
        for name in sorted(inside)
        if name.endswith(suffix) and not any(p.startswith(("_", ".")) for p in name.split("/"))
    ]


def glob_files(pattern: str) -> list[str]:
    """URIs of all files that match a pattern with `*`, `?`, `[...]` or `**`, sorted."""
    filesystem, path = open_filesystem(pattern)
    found = with_retries(lambda: filesystem.glob(path))
    if _protocol(filesystem) == "file":
        return sorted(str(entry) for entry in found)
    return sorted(str(filesystem.unstrip_protocol(entry)) for entry in found)


def _protocol(filesystem: Any) -> str:
    protocol = filesystem.protocol
    return str(protocol if isinstance(protocol, str) else protocol[0])
