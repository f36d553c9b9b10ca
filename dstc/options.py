"""Parses options of the form KEY=VALUE, such as `--set`."""

from __future__ import annotations

from collections.abc import Sequence

from dstc.errors import SettingsError


def read_key_values(texts: Sequence[str], option: str = "--set") -> dict[str, str]:
    """The values by key; of a key that is given twice, the last.

    Raises:
        SettingsError: a text is not KEY=VALUE.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"{option}: found {text!r}; expected KEY=VALUE")
        values[key.strip()] = value.strip()
    return values
