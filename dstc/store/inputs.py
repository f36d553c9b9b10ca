"""The one door for what manifests, references and results name: images and masks by URI.

`storage` opens what a person gave on the command line. What stands in data comes through here.
"""

from __future__ import annotations

import time
from typing import Any

from dstc.errors import StorageError
from dstc.store import http_fetch, retries, storage
from dstc.store.byte_ranges import ByteRange, byte_range, read_range
from dstc.store.input_policy import InputPolicy, InputTooLarge, check_uri
from dstc.store.local_files import read_regular_file
from dstc.store.retries import DeadlinePassed, Patience, with_retries
from dstc.store.spellings import first_found
from dstc.store.urls import local_path


def read_input(
    uri: str, policy: InputPolicy, patience: Patience = retries.PROMPT, seconds: float = 60
) -> bytes:
    """The whole of an image file, or the bytes of a container that `byte_ranges` name.

    Args:
        uri: resolved. policy: what it may name. patience: how long to try again.
        seconds: for all attempts together.

    Raises:
        StorageError: not allowed, or no URI of anything. InputTooLarge: more bytes than allowed.
        FileNotFoundError: there is none. DeadlinePassed: not read within `seconds`.
        OSError: storage did not answer until patience ended.

    Example:
        read_input("s3://bucket/a.png", InputPolicy(max_bytes=1_000_000))
    """
    check_uri(uri)
    wanted = byte_range(uri)
    if wanted is not None and wanted.end - wanted.start > policy.max_bytes:
        raise InputTooLarge(policy.max_bytes)
    end = time.monotonic() + seconds
    is_web = uri.lower().startswith(("http://", "https://"))
    if wanted is not None and is_web:
        raise StorageError(
            "bytes of a file on a web server; expected a file or an object store (s3://, gs://, "
            "abfs://) with '#bytes='"
        )

    def read(uri: str) -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlinePassed(f"not read within {seconds:g} s")
        if (path := local_path(uri)) is not None:
            below = None if policy.any_local else policy.local_folders
            span = (wanted.start, wanted.end) if wanted is not None else None
            return read_regular_file(path, policy.max_bytes, below, span)
        if is_web:
            return http_fetch.get(
                uri, private_hosts=policy.private_hosts, max_bytes=policy.max_bytes, seconds=left
            )
        return _read_object(uri, policy.max_bytes, wanted)

    def read_patiently(uri: str) -> bytes:
        return with_retries(lambda: read(uri), patience)

    file = uri if wanted is None else wanted.uri
    data = read_patiently(uri) if is_web else first_found(read_patiently, file)
    retries.note_moved("read", len(data))
    return data


def _read_object(uri: str, max_bytes: int, wanted: ByteRange | None) -> bytes:
    try:
        filesystem, path = storage.open_filesystem(uri)
        if wanted is not None:
            return read_range(filesystem, path, wanted)
        data = _first_bytes(filesystem, path, max_bytes + 1)
    except (TypeError, NotImplementedError) as error:
        raise StorageError(f"not a URL that can be used: {type(error).__name__}") from error
    if len(data) > max_bytes:
        raise InputTooLarge(max_bytes)
    return data


def _first_bytes(filesystem: Any, path: str, most: int) -> bytes:
    """At most so many, in one request, without a look at the size before."""
    try:
        return bytes(filesystem.cat_file(path, start=0, end=most))
    except Exception as error:  # drivers raise their own types
        # No range of an empty object can be had.
        if _status(error) == 416 and filesystem.size(path) == 0:
            return b""
        raise


def _status(error: Exception) -> int | None:
    """The status of HTTP behind a driver's error; boto has it in the cause of s3fs's."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        names = ("status", "status_code", "code")
        found = next(filter(None, (getattr(error, name, None) for name in names)), None)
    return int(found) if str(found).isdigit() else None
