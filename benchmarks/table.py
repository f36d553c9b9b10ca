"""Output of every benchmark: the machine it ran on, and a Markdown table."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path


def machine(device: str = "cpu") -> str:
    """The GPU if it is one, the processor, the cores this process may use, and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    where = f"{_gpu(device)}{_processor()}, {cores} cores{load}"
    return f"{where}; Python {platform.python_version()}, {versions}"


def _gpu(device: str) -> str:
    if device.partition(":")[0] != "cuda":
        return ""
    import torch  # not for the benchmarks of planning, which need none

    properties = torch.cuda.get_device_properties(torch.device(device))
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB; "


def _versions() -> dict[str, str]:
    """Of Ray and PyTorch, where they are installed: the engine needs no Ray."""
    versions = {}
    for name in ("ray", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], device: str = "cpu"
) -> None:
    """Prints a Markdown table, numbers right-aligned, after a line about the machine."""
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = (value.rjust(width) for value, width in zip(values, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    print(f"\n{machine(device)}\n")
    print(line(columns))
    print(line(["-" * (width - 1) + ":" for width in widths]))
    for row in texts:
        print(line(row))
