"""Values of a run as short texts for people; URLs lose their queries, which may be signatures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from dstc.store import storage

_LONG = 300


def rows_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of an object's values; nested objects with dotted names."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            rows += [(f"{name}.{inner}", text) for inner, text in rows_of(value)]
        else:
            rows.append((str(name), shown(value)))
    return rows


def shown(value: object) -> str:
    """A value as short text, without what may be secret in URLs."""
    if value is None or value == [] or value == {}:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        text = ", ".join(shown(item) for item in value[:50])
        return _shortened(text)
    return _shortened(storage.redact(str(value)))


def text_of(value: object) -> str:
    """The whole text; empty when missing."""
    return "" if value is None else storage.redact(str(value))


def told(error: Exception) -> str:
    """An exception in one line."""
    return storage.redact(f"{type(error).__name__}: {error}")


def duration(seconds: float) -> str:
    """`4.2 s`, `12 min 30 s`, `60 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def percent(share: float) -> str:
    """A share as `97 %`; small ones with one digit, `0.3 %`."""
    return f"{100 * share:.0f} %" if 0.1 <= share or share == 0 else f"{100 * share:.1g} %"


def moment(seconds: float) -> str:
    """A time in seconds since 1970 as date and time."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else text[:_LONG] + " ..."
