"""The one way to storage: any fsspec URL (local, `s3://`, `gs://`, `https://`), with retries.

Endpoints, regions and credentials come from the environment (for S3: `AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID` and so on); none is ever read from a URL or put into a message. File systems are
made at first use in each process, since their threads do not survive a fork.

What goes wrong is an OSError here, whatever type its driver has for it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import posixpath
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from dstc.errors import OutputError, StorageError
from dstc.store.retries import PROMPT, STEADY, Patience, note_moved, with_retries
from dstc.store.temporary_files import temporary_beside
from dstc.store.urls import join, parent
from dstc.text import describe, redact
from dstc_engine.durable import make_folder, move_into_place

# A peer that is gone without a word is found out after this; one that is only slow is waited for.
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60


# Folders are only names there, and asking to make one may try to make the bucket.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "r2"})


def unanswered(uri: str, error: OSError) -> StorageError:
    """What to tell a person when storage fails at a file."""
    return StorageError(
        f"{redact(uri)}: storage does not do what is asked of it: {describe(error)}"
    )


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Raises:
        StorageError: the protocol is unknown, its driver is not installed, or an environment
            variable has a value that means nothing.
    """
    # No listing cache: workers elsewhere write while we look.
    options: dict[str, Any] = {"use_listings_cache": False}
    if uri.startswith(("s3://", "s3a://")):
        options |= _s3_options()
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{redact(uri)}: {redact(str(error))}") from error
    if _protocol(filesystem) in ("s3", "s3a"):
        filesystem.retries = 1  # ours are the only ones: nested, they multiply
    return filesystem, str(path)


def _s3_options() -> dict[str, Any]:
    """Settings of s3fs from the environment; its credentials it finds there itself."""
    addressing = os.environ.get("DSTC_S3_ADDRESSING", "auto")
    if addressing not in ("auto", "path", "virtual"):
        raise StorageError(
            f"DSTC_S3_ADDRESSING: found {addressing!r}; expected 'auto', 'path' or 'virtual'"
        )
    # Given in the open, so that another endpoint is another file system in fsspec's cache.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # botocore reads only the second name, other tools of AWS also the first.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {
        "endpoint_url": endpoint,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "s3": {"addressing_style": addressing},
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 64,
        },
        # Above 1, s3fs asks for the size of every object before it reads it: two requests for one.
        "max_concurrency": 1,
    }


@contextlib.contextmanager
def writing_output(uri: str) -> Iterator[None]:
    """Names what could not be written when storage gives up inside.

    Raises:
        OutputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{redact(uri)} cannot be written: {describe(error)}") from error


def is_about_one_file(error: BaseException | None) -> bool:
    """Whether a failed write speaks of this one path, and not of the storage as a whole."""
    shape = (FileExistsError, IsADirectoryError, NotADirectoryError, ValueError)
    return isinstance(error, shape) or getattr(error, "errno", None) == errno.ENAMETOOLONG


def read_bytes(uri: str, patience: Patience = PROMPT) -> bytes:
    """The whole file.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the URI's protocol cannot be used.
        OSError: storage did not answer until patience ended.
    """
    filesystem, path = open_filesystem(uri)
    data = bytes(with_retries(lambda: filesystem.cat_file(path), patience))
    note_moved("read", len(data))
    return data


@contextlib.contextmanager
def open_input(uri: str, patience: Patience = PROMPT) -> Iterator[IO[bytes]]:
    """Opens a file for reading here and there, every read with retries.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the URI's protocol cannot be used.
        OSError: storage did not answer until patience ended; also out of the reads inside.
    """
    filesystem, path = open_filesystem(uri)
    if _protocol(filesystem) == "file":
        with with_retries(lambda: filesystem.open(path, "rb"), patience) as file:
            yield file
        return
    if _protocol(filesystem) in ("http", "https"):
        yield io.BytesIO(read_bytes(uri, patience))  # not all servers know sizes and ranges
        return
    with io.BufferedReader(_Ranges(filesystem, path, patience), _RANGE) as reader:
        yield reader


# Read at once: a request costs as much time as this many bytes.
_RANGE = 1 << 20


class _Ranges(io.RawIOBase):
    """A remote file as reads of byte ranges, each tried again by itself.

    The drivers' own files are not used: where a connection breaks in the midst of one, they give up
    or, at worst, go on as if the file ended there.
    """

    def __init__(self, filesystem: Any, path: str, patience: Patience) -> None:
        self._filesystem, self._path, self._patience = filesystem, path, patience
        self._size = int(with_retries(lambda: filesystem.size(path), patience))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        start = self._place

        def read() -> bytes:
            data = bytes(self._filesystem.cat_file(self._path, start=start, end=end))
            if len(data) != end - start:
                raise OSError(f"{len(data)} bytes came of the {end - start} asked for")
            return data

        data = with_retries(read, self._patience)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def write_bytes(uri: str, data: bytes, patience: Patience = PROMPT) -> None:
    """Writes a whole file, so that readers see the old one, the new one, never a part of it.

    Raises:
        StorageError: the URI's protocol cannot be used.
        OSError: storage refused, or did not answer until patience ended.
    """
    filesystem, path = open_filesystem(uri)
    if _protocol(filesystem) == "file":
        with_retries(lambda: _write_local(Path(path), data), patience)
    else:
        if _protocol(filesystem) not in _OBJECT_STORES:
            with_retries(lambda: filesystem.makedirs(parent(path), exist_ok=True), patience)
        with_retries(lambda: filesystem.pipe_file(path, data), patience)
    note_moved("written", len(data))


def write_file(uri: str, source: Path, patience: Patience = STEADY) -> None:
    """Writes a large file of this machine, never whole in memory; anew after each fault.

    Readers see the old file, the new one, never a part of it.

    Raises:
        StorageError: the URI's protocol cannot be used.
        OSError: storage refused, or did not answer until patience ended; or there is no `source`.
    """
    filesystem, path = open_filesystem(uri)
    if _protocol(filesystem) == "file":
        with_retries(lambda: _copy_local(source, Path(path)), patience)
    else:
        if _protocol(filesystem) not in _OBJECT_STORES:
            with_retries(lambda: filesystem.makedirs(parent(path), exist_ok=True), patience)
        with_retries(lambda: filesystem.put_file(str(source), path), patience)
    note_moved("written", source.stat().st_size)


def _copy_local(source: Path, path: Path) -> None:
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        shutil.copyfile(source, temporary)
        move_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_local(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(data)
        move_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def local_folder(uri: str) -> Path | None:
    """The path of a folder of this machine; None for object storage."""
    filesystem, path = open_filesystem(uri)
    return Path(path) if _protocol(filesystem) == "file" else None


def remove(uri: str) -> None:
    """Removes a file; one that is not there, or that storage keeps, is no error."""
    filesystem, path = open_filesystem(uri)
    with contextlib.suppress(OSError):
        with_retries(lambda: filesystem.rm_file(path))


def facts_of(uri: str, patience: Patience = PROMPT) -> dict[str, Any]:
    """What storage says of a file: its size, and whatever else this kind of storage tells.

    Raises:
        FileNotFoundError: there is none.
        OSError: storage did not answer until patience ended.
    """
    filesystem, path = open_filesystem(uri)
    return dict(with_retries(lambda: filesystem.info(path), patience))


def exists(uri: str) -> bool:
    """Whether there is a file or folder of this name."""
    filesystem, path = open_filesystem(uri)
    return bool(with_retries(lambda: filesystem.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether the URI names a folder, or a prefix under which objects lie."""
    filesystem, path = open_filesystem(uri)
    return bool(with_retries(lambda: filesystem.isdir(path)))


def list_names(folder: str, patience: Patience = PROMPT) -> list[str]:
    """Names directly inside a folder, sorted; an empty list when there is no such folder.

    Unfinished local writes (hidden temporary files) are left out.
    """
    filesystem, path = open_filesystem(folder)
    try:
        entries = with_retries(lambda: filesystem.ls(path, detail=False), patience)
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
