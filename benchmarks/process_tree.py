"""Processes that this one has started, and those that they have: nothing else may be killed."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path


def descendants() -> dict[int, str]:
    """Command line by number; of those that ended meanwhile an empty one."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The command, in brackets, may hold blanks; the parent is the second field behind it.
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(path.name))
    found: dict[int, str] = {}
    waiting = list(children[os.getpid()])
    while waiting:
        pid = waiting.pop()
        found[pid] = _command(pid)
        waiting += children[pid]
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace")
    return ""
