"""Readers that come with an extra: brought in when a source needs one, with what to install."""

from __future__ import annotations

import importlib
from typing import Any

from dstc.errors import SettingsError


def load(module: str, extra: str, source: str) -> Any:
    """A module of an optional package.

    Args:
        module: to import. extra: of this package that brings it. source: what needs it.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{source} is read by the package {module.partition('.')[0]!r}, which is not installed "
            f"({error}): pip install 'dstc[{extra}]'"
        ) from None
