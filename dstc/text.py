"""Formats durations and errors for people; redacts secrets, shows what would steer a terminal."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


def duration(seconds: float, tenths_below: float = 0) -> str:
    """For example "3 h 05 min", "2 min 07 s", "9 s".

    Args:
        seconds: not negative.
        tenths_below: shorter ones are told to a tenth, as "4.2 s".
    """
    if seconds < tenths_below:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def carries_user(text: str) -> bool:
    """Whether a URL in the text holds a user or a password."""
    return _USER_INFO.search(text) is not None


def redact(text: str) -> str:
    """The text without what may be secret in URLs: user and password, and everything after `?`."""
    return _QUERY.sub(r"\1?...", _USER_INFO.sub("", text))


def visible(text: str, keep: str = "") -> str:
    r"""The text with all that is invisible, or that steers a terminal, as an escape.

    Names and errors come from manifests, storage and other machines. Control characters would clear
    the screen or hide a link in it, bidi overrides show a name backwards, a carriage return
    overwrites what stands before it.

    Args:
        text: any. keep: characters to leave as they are, such as line ends.

    Returns:
        Letters, digits, marks and blanks as they are, the rest as Python would write it:
        `visible("a\x1b[31m")` is `a\x1b[31m` in 9 characters. What is visible does not change.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def describe(error: BaseException | None) -> str:
    """An error as one visible line without secrets: its type and what it says."""
    try:
        said = str(error)
    except Exception:  # of an error that cannot even say what it is
        said = "(no text)"
    return visible(redact(f"{type(error).__name__}: {said}"))


_LONG = 300


def shown(value: object) -> str:
    """A value as short visible text, without what may be secret in URLs."""
    if value is None or value == [] or value == {}:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        text = ", ".join(shown(item) for item in value[:50])
        return _shortened(text)
    return _shortened(visible(redact(str(value))))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else text[:_LONG] + " ..."


def row_rate(rate: float) -> str:
    """For example "12.34 row/s", "0.25 row/s", "0.0031 row/s"."""
    return f"{rate:.2f} row/s" if rate >= 0.1 or rate == 0 else f"{rate:#.2g} row/s"
