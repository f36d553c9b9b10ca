"""Peak memory of this process since a moment, in MB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_MB = 1e6


class PeakMemory:
    """Resident memory above what the process held when this was made.

    On Linux the kernel's high-water mark is reset first, so what imports needed for a moment does
    not hide what comes after. Elsewhere it is the growth of `ru_maxrss`, which that may hide.
    """

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._start = _from_status("VmRSS")
            self._is_reset = True
        except OSError:
            self._start = _max_rss()
            self._is_reset = False

    def megabytes(self) -> float:
        """The peak so far."""
        peak = _from_status("VmHWM") if self._is_reset else _max_rss()
        return (peak - self._start) / _MB


def _from_status(name: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _max_rss() -> int:
    """Bytes; Linux counts in KiB, macOS in bytes."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
