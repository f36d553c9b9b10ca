"""CPU cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """How many, 1 or more: those it is bound to where the system tells, else the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
