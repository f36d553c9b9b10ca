"""Tells processes apart: a number means one only within a PID namespace of a running kernel."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def boot() -> str | None:
    """Names the present run of this machine's kernel, where it is Linux."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def namespace() -> int | None:
    """The inode of this process's PID namespace; None where /proc does not show that one."""
    with contextlib.suppress(OSError):
        # A container may see the /proc of its host, where its own numbers name others.
        if os.readlink("/proc/self") == str(os.getpid()):
            return os.stat("/proc/self/ns/pid").st_ino
    return None


def started(pid: int) -> int | None:
    """The clock tick since boot at which a process of this namespace started; None if it ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        # The command, in brackets, may hold blanks; state and start are fields 1 and 20 behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":  # ended, and nobody has asked for its exit code yet
            return int(fields[19])
    return None


def neighborhood() -> str | None:
    """Names the PID namespace and the kernel's run in 8 hex digits, for names of files."""
    kernel, inode = boot(), namespace()
    if kernel is None or inode is None:
        return None
    return hashlib.sha256(f"{kernel} {inode}".encode()).hexdigest()[:8]
