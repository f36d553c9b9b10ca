"""Distributed image-to-image translation by guided diffusion, on Ray Data.

    import dstc

    run = dstc.translate("manifests/demo.parquet", "demo-output", slots=4)
    print(run.status.done, run.report())

The commands (`dstc --help`) do the same; docs/python.md has examples, docs/architecture.md says
where everything is.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstc.driver.progress_calls import Progress
    from dstc.engines.spec import EngineSpec
    from dstc.errors import JobError
    from dstc.export import export
    from dstc.jobs_in_python import build_manifest, check_manifest, translate
    from dstc.pilot import run
    from dstc.planning.settings import Settings, make_settings
    from dstc.processor import ProcessorConfig, build_processor
    from dstc.report import write_report
    from dstc.run_handle import Run, open_run
    from dstc.status import Status, read_status
    from dstc.translate_image import translate_image
    from dstc_engine.errors import DstcError, UserError

__all__ = [
    "DstcError",
    "EngineSpec",
    "JobError",
    "ProcessorConfig",
    "Progress",
    "Run",
    "Settings",
    "Status",
    "UserError",
    "build_manifest",
    "build_processor",
    "check_manifest",
    "export",
    "make_settings",
    "open_run",
    "read_status",
    "run",
    "translate",
    "translate_image",
    "write_report",
]

_HOMES = {
    "dstc.driver.progress_calls": ("Progress",),
    "dstc.engines.spec": ("EngineSpec",),
    "dstc.errors": ("JobError",),
    "dstc.export": ("export",),
    "dstc.jobs_in_python": ("build_manifest", "check_manifest", "translate"),
    "dstc.pilot": ("run",),
    "dstc.planning.settings": ("Settings", "make_settings"),
    "dstc.processor": ("ProcessorConfig", "build_processor"),
    "dstc.report": ("write_report",),
    "dstc.run_handle": ("Run", "open_run"),
    "dstc.status": ("Status", "read_status"),
    "dstc.translate_image": ("translate_image",),
    "dstc_engine.errors": ("DstcError", "UserError"),
}


class _Package(ModuleType):
    """Three functions have the names of modules of ours: `dstc.NAME` is always the function."""

    def __setattr__(self, name: str, value: object) -> None:
        # Importing `dstc.translate` binds it here, too; `from dstc.translate import ...` needs no
        # such name.
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    # Looked up when asked for: `dstc --help` must not wait for Ray.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
