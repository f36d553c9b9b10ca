"""Weights folder that several processes fill at once: file locks, and errors of the disk."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from dstc_engine.errors import WeightsError

_OTHER_FOLDER = "or name another folder by DSTC_WEIGHTS (by DSTC_WEIGHTS_CACHE for a bucket's copy)"
_ADVICE = {
    errno.ENOSPC: ("no space is left", "free some, {other}; what has come so far is kept"),
    errno.EDQUOT: ("the quota is used up", "free some, {other}; what has come so far is kept"),
    errno.EROFS: ("it is read-only", "mount it for writing, {other}"),
    errno.EACCES: ("permission is denied", "let this user write there, {other}"),
    errno.EPERM: ("permission is denied", "let this user write there, {other}"),
    errno.ENOSYS: ("its file system has no locks", "mount it with them, {other}"),
}


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock of a file, among the threads and processes of this machine.

    The kernel holds it (flock), so a process that is killed lets go of it. The lock is a hidden
    file of its own beside `path` and stays there: who removes it can split those who wait.

    Args:
        path: what is locked; its folder exists.
        on_wait: called once when another holds the lock.

    Raises:
        OSError: no file can be made there.
    """
    # Not filelock's own way out where flock is missing: nobody would clear a dead process's mark.
    lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes errors of the disk inside name the folder, the reason, and what to do.

    Raises:
        WeightsError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason, advice = _ADVICE.get(
            error.errno or 0, (f"{type(error).__name__}: {error}", "mend that, {other}")
        )
        hint = advice.format(other=_OTHER_FOLDER)
        raise WeightsError(f"weights folder {folder}: {reason}; {hint}") from error


def check_space(folder: Path, needed: int, what: str) -> None:
    """Checks for room before gigabytes are written.

    Args:
        folder: which exists. needed: bytes. what: is to be written, for the message.

    Raises:
        WeightsError: there is less.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WeightsError(
            f"weights folder {folder}: {free:,} bytes are free, and {what} takes {needed:,}; "
            f"free some, {_OTHER_FOLDER}"
        )
