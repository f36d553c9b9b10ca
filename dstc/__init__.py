"""Distributed image-to-image translation by guided diffusion, on Ray Data.

    from dstc import make_settings, run, write_report

    settings = make_settings(manifest="manifests/demo.parquet", output="demo-output", slots=4)
    exit_code = run(settings)  # 0: done or rejected; 3: some failed, or too many rejected
    print(write_report(settings.output))

The commands (`dstc --help`) do the same; docs/architecture.md says where everything is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstc.engines.spec import EngineSpec
    from dstc.errors import JobError
    from dstc.planning.settings import Settings, make_settings
    from dstc.report import write_report
    from dstc.status import Status, read_status
    from dstc.translate import run
    from dstc_engine.errors import DstcError, UserError

__all__ = [
    "DstcError",
    "EngineSpec",
    "JobError",
    "Settings",
    "Status",
    "UserError",
    "make_settings",
    "read_status",
    "run",
    "write_report",
]

_HOMES = {
    "dstc.engines.spec": ("EngineSpec",),
    "dstc.errors": ("JobError",),
    "dstc.planning.settings": ("Settings", "make_settings"),
    "dstc.report": ("write_report",),
    "dstc.status": ("Status", "read_status"),
    "dstc.translate": ("run",),
    "dstc_engine.errors": ("DstcError", "UserError"),
}


def __getattr__(name: str) -> object:
    # Looked up when asked for: `dstc --help` must not wait for Ray.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
