"""Values of a run as short texts for people; URLs lose their queries, which may be signatures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from dstc.text import redact, shown


def rows_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of an object's values; nested objects with dotted names."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            rows += [(f"{name}.{inner}", text) for inner, text in rows_of(value)]
        else:
            rows.append((str(name), shown(value)))
    return rows


def text_of(value: object) -> str:
    """The whole text; empty when missing."""
    return "" if value is None else redact(str(value), str(value))


def percent(share: float) -> str:
    """A share as `97 %`; small ones with one digit, `0.3 %`."""
    return f"{100 * share:.0f} %" if 0.1 <= share or share == 0 else f"{100 * share:.1g} %"


def moment(seconds: float) -> str:
    """A time in seconds since 1970 as date and time."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
