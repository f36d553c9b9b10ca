"""Finds engines by name: those of this package, and any other as `package.module:RECORD`."""

from __future__ import annotations

import importlib

from dstc.engines.spec import EngineSpec
from dstc.errors import SettingsError

# Where their records lie; imported when asked for, since some bring seconds of imports with them.
ENGINES = {
    "guided": "dstc.engines.guided:GUIDED",
    "student": "dstc.engines.student:STUDENT",
    "fake": "dstc.engines.fake:FAKE",
}


def find_engine(name: str) -> EngineSpec:
    """The engine that `--engine` names.

    Args:
        name: of `ENGINES`, or `package.module:RECORD` with an `EngineSpec` of that name.

    Raises:
        SettingsError: there is none, or it is something else.
    """
    place = ENGINES.get(name, name)
    module, mark, attribute = place.partition(":")
    if not mark:
        raise SettingsError(
            f"--engine {name}: no such engine; expected one of {', '.join(ENGINES)}, or "
            "package.module:RECORD"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"--engine {name}: {error}") from error
    if not isinstance(found, EngineSpec):
        raise SettingsError(
            f"--engine {name}: found {type(found).__name__}; expected an EngineSpec "
            "(dstc.engines.spec)"
        )
    return found
