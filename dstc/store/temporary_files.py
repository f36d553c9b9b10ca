"""Names of unfinished local files, and how those are swept whose writer died.

Every local file is written under a temporary name in its own folder and then renamed. A process
that is killed in between leaves that file behind; no reader takes it for data.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dstc.store import process

# Before there were neighborhoods: `.<pid>-<uuid>.tmp`.
_NAME = re.compile(r"\.(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{32}\.tmp")
# The writer may live elsewhere and be slow: a write takes seconds.
_ABANDONED_AFTER_S = 3600.0
_PATIENCE_S, _LOOK_EVERY_S = 10.0, 0.1


def temporary_beside(path: Path) -> Path:
    """A name for the unfinished file, in the folder of the finished one."""
    where = process.neighborhood()
    writer = f"{where}-{os.getpid()}" if where else str(os.getpid())
    return path.with_name(f".{writer}-{uuid.uuid4().hex}.tmp")


def sweep(folder: Path, stop: threading.Event | None = None) -> int:
    """Removes unfinished files below a folder whose writer is dead; how many.

    Dead is a process of this PID namespace that runs no more. What others wrote goes after an hour.

    Args:
        stop: ends the search when set.
    """
    swept, _ = _sweep(_unfinished(folder, stop))
    return swept


def _unfinished(folder: Path, stop: threading.Event | None = None) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        if stop is not None and stop.is_set():
            return
        yield from (Path(place, name) for name in names if _NAME.fullmatch(name))


def _sweep(paths: Iterable[Path]) -> tuple[int, list[Path]]:
    """How many were removed, and those that other living processes of this machine write."""
    here, now, swept, living = process.neighborhood(), time.time(), 0, list[Path]()
    for path in paths:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        is_ours, writer = here is not None and match[1] == here, int(match[2])
        with contextlib.suppress(OSError):
            age = now - path.stat().st_mtime
            has_ended = is_ours and process.started(writer) is None
            if has_ended or age > _ABANDONED_AFTER_S:
                path.unlink()
                swept += 1
            elif is_ours and writer != os.getpid():
                living.append(path)
    return swept, living


def _sweep_at_end(folder: Path) -> None:
    """Sweeps, and waits for writers that are being ended: Ray kills its tasks without waiting."""
    end = time.monotonic() + _PATIENCE_S
    _, living = _sweep(_unfinished(folder))
    while living and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)
        _, living = _sweep(living)


@contextlib.contextmanager
def swept(folder: Path | None) -> Iterator[None]:
    """Sweeps a folder from a thread while the block runs, and once more at its end.

    A folder of millions of images takes minutes to list: neither the block nor its end waits
    for that.

    Args:
        folder: local, or None for object storage, where nothing unfinished can be seen.
    """
    if folder is None:
        yield
        return
    stop = threading.Event()

    def start(target: Callable[..., object], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=(folder, *args), name="sweep", daemon=True)
        thread.start()
        return thread

    first = start(sweep, stop)
    try:
        yield
    finally:
        stop.set()
        first.join(_PATIENCE_S)
        start(_sweep_at_end).join(_PATIENCE_S)
