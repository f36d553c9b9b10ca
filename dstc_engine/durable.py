"""Gives a finished file its name, so that a power cut leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def move_into_place(temporary: Path, path: Path) -> None:
    """Renames a file over another in the same file system, and waits until the disk has both.

    Args:
        temporary: written and closed. path: its name from now on; its folder must exist.

    Raises:
        OSError: the file cannot be renamed, or the disk does not take it.

    Example:
        >>> Path("new.tmp").write_text("whole")
        >>> move_into_place(Path("new.tmp"), Path("new.txt"))
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())  # else a power cut may leave the name and not the bytes
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder; without it, a power cut may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Network and FUSE file systems that cannot do it write names through by themselves.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it; the disk has their names at return."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)
