"""Images inside containers, named by file and bytes: `images/00007-3f.tar#bytes=1536-5022`.

The two numbers are those of HTTP's Range header, so that any client reads one image by one request
(`curl -r 1536-5022`), whatever the container. Results hold such names with `--store webdataset` and
`parquet`; a manifest may hold them, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dstc.store import storage
from dstc.store.retries import PROMPT, Patience, note_moved, with_retries
from dstc.store.spellings import first_found

_NAME = re.compile(r"(.+\.(?:tar|parquet))#bytes=(\d{1,15})-(\d{1,15})", re.DOTALL)


class CutShort(FileNotFoundError):
    """A file that ends before the bytes that are named: what is named is not there."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes of a file.

    Attributes:
        uri: of the file. start: place of the first byte, from 0. end: place after the last one.
    """

    uri: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.uri}#bytes={self.start}-{self.end - 1}"


def byte_range(uri: str) -> ByteRange | None:
    """The bytes that a path or URL names; None where it names a whole file.

    Example:
        >>> byte_range("images/7.tar#bytes=512-1535")
        ByteRange(uri='images/7.tar', start=512, end=1536)
    """
    found = _NAME.fullmatch(uri)
    if found is None or int(found[2]) > int(found[3]):
        return None
    return ByteRange(found[1], int(found[2]), int(found[3]) + 1)


def file_of(uri: str) -> str:
    """The file that a path or URL names, or names bytes of."""
    found = byte_range(uri)
    return uri if found is None else found.uri


def read_stored(uri: str, patience: Patience = PROMPT) -> bytes:
    """The whole file, or the bytes of one, that a path or URL names.

    Raises:
        FileNotFoundError: there is none, or it ends before.
        StorageError: the URI's protocol cannot be used.
        OSError: storage did not answer until patience ended.
    """
    found = byte_range(uri)
    if found is None:
        return storage.read_bytes(uri, patience)

    def read(file: str) -> bytes:
        filesystem, path = storage.open_filesystem(file)
        return with_retries(lambda: read_range(filesystem, path, found), patience)

    data = first_found(read, found.uri)
    note_moved("read", len(data))
    return data


def read_range(filesystem: Any, path: str, wanted: ByteRange) -> bytes:
    """Bytes of a file, in one request.

    Args:
        filesystem: of fsspec. path: in it. wanted: its bytes; its URI is only for errors.

    Raises:
        CutShort: the file ends before. Whatever else the driver raises.
    """
    try:
        data = bytes(filesystem.cat_file(path, start=wanted.start, end=wanted.end))
    except FileNotFoundError:
        raise
    except Exception:  # drivers have their own types for a range that is not there
        if filesystem.size(path) <= wanted.start:
            raise _cut_short(wanted) from None
        raise
    if len(data) != wanted.end - wanted.start:
        raise _cut_short(wanted)
    return data


def _cut_short(wanted: ByteRange) -> CutShort:
    return CutShort(f"the file ends before byte {wanted.end:,}, which is named")


def is_stored(uri: str) -> bool:
    """Whether the file is there, as far as the bytes that are named.

    Raises:
        OSError: storage does not answer.
    """
    found = byte_range(uri)
    if found is None:
        return storage.exists(uri)
    try:
        return int(storage.facts_of(found.uri)["size"]) >= found.end
    except FileNotFoundError:
        return False
