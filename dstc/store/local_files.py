"""Reads local files that a manifest names: regular ones alone, and only where it may."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from dstc.errors import StorageError
from dstc.store.input_policy import InputTooLarge, NotAllowed

# Files of the kernel: some of them are "regular", hold the environment, and have no end.
_OF_THE_KERNEL = ("/proc", "/sys", "/dev")
_MEMORY = "/dev/shm"
# No name of any file: another attempt cannot mend it.
_NO_NAME = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO})


def read_regular_file(
    path: str,
    max_bytes: int,
    below: Sequence[str] | None = None,
    span: tuple[int, int] | None = None,
) -> bytes:
    """The whole of a regular file; links are followed first, and what they lead to is checked.

    Args:
        path: absolute. max_bytes: at most so many. below: folders that it must lie in; None: any.
        span: the places of the first byte and behind the last one; None for the whole file.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: as Python raises them.
        StorageError: no regular file, or not below the folders. InputTooLarge: too many bytes.

    Example:
        read_regular_file("/data/a.png", 200_000_000, below=["/data"])
    """
    try:
        real = os.path.realpath(path)
        _check_place(real, below)
        _check_kind(os.stat(real))
        # Not blocking: between the two, it may have become a FIFO.
        handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_NAME:
            raise StorageError(f"no name of a file: {error.strerror}") from error
        raise
    with open(handle, "rb") as file:
        found = os.fstat(file.fileno())
        _check_kind(found)
        if span is not None:
            start, end = span
            file.seek(start)
            data = file.read(end - start)
            if len(data) < end - start:
                raise FileNotFoundError(errno.ENOENT, f"it ends before byte {end:,}")
            return data
        if found.st_size > max_bytes:
            raise InputTooLarge(max_bytes)
        # Files of the kernel say that they are empty, and are not, wherever they are mounted.
        data = file.read(max_bytes + 1) if found.st_size else b""
    if len(data) > max_bytes:
        raise InputTooLarge(max_bytes)
    return data


def _check_place(real: str, below: Sequence[str] | None) -> None:
    path = Path(real)
    is_of_kernel = any(path.is_relative_to(place) for place in _OF_THE_KERNEL)
    if is_of_kernel and not path.is_relative_to(_MEMORY):
        raise StorageError("a file of the kernel or a device; expected a regular file")
    if below is not None and not any(path.is_relative_to(os.path.realpath(top)) for top in below):
        raise NotAllowed(
            "a local file, named by a manifest that lies elsewhere; expected a URL, or "
            "--allow-local with a folder that holds the file"
        )


def _check_kind(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise StorageError("a device, socket or FIFO; expected a regular file")
