"""Formats durations and errors for people; redacts secrets, shows what would steer a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

# In the midst of a text. A key may hold a `/`, a blank or a quote: what is no port number goes on
# to the `@`, and the path before a `?` may hold anything but another URL.
_KEY_AND_SECRET = re.compile(
    r"(?<=://)(?!\[)[^\s/?#@:]*:(?!\d*(?:[/?#\s'\",;)]|$))(?!\s)(?:(?!://)[^\n@])*@(?:[^\s/@]*@)*"
)
# In these, what stands before an `@` is a container of the account behind it.
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "az"})
_USER_INFO = re.compile(
    r"(?<=://)(?:(?<!abfs://)(?<!abfss://)(?<!az://)[^/@\s]+|[^/@\s:]*:[^/@\s]*)@", re.IGNORECASE
)
_QUERY = re.compile(
    r"(://(?:(?!://)[^?\n])*)\?(?!\.{3}(?:[:;,)\s]|$))"
    r"(?:\S+|(?=[ \t]+\S*[=&]))(?:[ \t]+\S*[=&]\S*)*"
)
# Drivers also tell of a request by its path alone.
_SIGNATURES = re.compile(
    r"(?i)\b((?:x-(?:amz|goog)-)?(?:signature|security-token|credential)|sig|awsaccesskeyid)"
    r"=(?!\.\.\.)[^\s&'\"]+"
)
_SECRET_VARIABLES = re.compile(
    r"(?i)SECRET|PASSWORD|PASSWD|TOKEN|ACCESS_KEY|ACCOUNT_KEY|STORAGE_KEY|API_KEY|CONNECTION_STRING"
)
# Shorter values would be found in the midst of words.
_SHORTEST_SECRET, _SHORTEST_OF_URL = 8, 6
# The parts of a longer one would be too many to look for.
_LONGEST_URL = 8192
# Characters of a value in an error: enough to know it by.
MAX_SHOWN = 500


class Url(NamedTuple):
    """A URL by its components, taken apart once; what is secret in it stands alone.

    Attributes:
        scheme: in lower case. host: with its port; the bucket, or `container@account` of Azure.
        path: with its first slash. user: name and password before the host, or None.
        query: what follows the first `?`, which may be a signature, or None.

    Example:
        >>> parse_url("https://me:pw@host/a b.png?sig=1")
        Url(scheme='https', host='host', path='/a b.png', user='me:pw', query='sig=1')
    """

    scheme: str
    host: str
    path: str
    user: str | None
    query: str | None

    def __str__(self) -> str:
        query = "" if self.query is None else "?..."
        return f"{self.scheme}://{self.host}{self.path}{query}"


def parse_url(text: str) -> Url | None:
    """The components of a URL; None for a local path, which has no `scheme://` at its start."""
    found = _SCHEME.match(text)
    if found is None:
        return None
    scheme, rest = found[1].lower(), text[found.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, mark, host = authority.rpartition("@")
    if mark and scheme in _CONTAINER_SCHEMES and ":" not in user:
        user, host = "", authority
    elif ":" in user or (not mark and _has_no_port(scheme, authority)):
        # A password may hold `/`, `?` and `@`: everything to the last `@` may be part of it.
        user, mark, rest_of_host = rest.rpartition("@")
        if not mark:
            user, rest_of_host = rest, ""
        host = re.split(r"[/?#]", rest_of_host, maxsplit=1)[0]
        authority = f"{user}{mark}{host}"
    path, mark, query = rest[len(authority) :].partition("?")
    return Url(scheme, host, path, user or None, query if mark else None)


def _has_no_port(scheme: str, authority: str) -> bool:
    """Whether a colon in it is not that of a port, so that it is that before a password."""
    if authority.startswith("["):  # an address of IPv6
        return False
    _, colon, port = authority.partition(":")
    is_port = scheme in ("http", "https") and port.isascii() and (port.isdigit() or not port)
    return bool(colon) and not is_port


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


def redact(text: str, *urls: str) -> str:
    """The text without what may be secret.

    That is: user, password and query of URLs in it, values of environment variables whose names
    say that they are secret, and signatures. URLs are found wherever they stand, but where one ends
    in the midst of a text is a guess: those that are known are better given.

    Args:
        urls: whose secrets may be anywhere in the text, encoded or not.
    """
    secrets = {secret for url in urls for secret in _secrets_of(url)}
    secrets.update(_secrets_of_environment())
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "...")
    text = _USER_INFO.sub("", _KEY_AND_SECRET.sub("", text))
    return _SIGNATURES.sub(r"\1=...", _QUERY.sub(r"\1?...", text))


def _secrets_of(url: str) -> Iterator[str]:
    parsed = parse_url(url)
    if parsed is None:
        return
    user, query = parsed.user or "", parsed.query or ""
    if len(url) > _LONGEST_URL:
        yield from filter(None, (user, query))
        return
    parts = [user, user.partition(":")[2], query]
    parts += [part.partition("@")[0] for part in parts[:2]]
    parts += [value for _, value in parse_qsl(query)]
    parts += [pair.partition("=")[2] for pair in query.split("&")]
    for part in parts:
        for form in (part, unquote(part), quote(part), quote(part, safe="")):
            if len(form) >= _SHORTEST_OF_URL:
                yield form


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLES.search(name):
            yield from (value, quote(value), quote(value, safe=""))
            if "CONNECTION_STRING" in name:
                yield from (part for part in re.findall(r"(?:Key|Signature)=([^;]{8,})", value))


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


def describe(error: BaseException | None, *urls: str) -> str:
    """An error as one visible line without secrets, at most 500 characters: its type and text.

    Args:
        urls: as in `redact`.
    """
    try:
        said = str(error)
    except Exception:  # of an error that cannot even say what it is
        said = "(no text)"
    return shortened(visible(redact(f"{type(error).__name__}: {said}", *urls)))


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    """The text, or its beginning and how long it was; never more than `most` characters."""
    if len(text) <= most:
        return text
    told = f"... ({len(text):,} characters)"
    return text[: most - len(told)] + told


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
    return _shortened(visible(redact(str(value), str(value))))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else text[:_LONG] + " ..."


def row_rate(rate: float) -> str:
    """For example "12.34 row/s", "0.25 row/s", "0.0031 row/s"."""
    return f"{rate:.2f} row/s" if rate >= 0.1 or rate == 0 else f"{rate:#.2g} row/s"
