"""One name in several Unicode spellings: "é" as one code point (NFC) or as two (NFD).

macOS writes names of files in the second form, most else the first; to the eye they are the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import TypeVar

T = TypeVar("T")

# Of each folder and of the name there are up to three.
_MOST = 32


def spellings(uri: str) -> Iterator[str]:
    """The URI as it is, then its other spellings, folder by folder; at most 32.

    Example:
        >>> [len(uri) for uri in spellings("caf\\u00e9.png")]
        [8, 9]
    """
    if uri.isascii():
        yield uri
        return
    forms = [
        list(dict.fromkeys([part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]))
        for part in uri.split("/")
    ]
    yield from ("/".join(parts) for parts in islice(product(*forms), _MOST))


def first_found(read: Callable[[str], T], uri: str) -> T:
    """What `read` makes of the URI, or of its first other spelling that is there.

    Raises:
        FileNotFoundError: for the URI as it was given, when none is there.
    """
    given, *others = spellings(uri)
    try:
        return read(given)
    except FileNotFoundError:
        for other in others:
            try:
                return read(other)
            except FileNotFoundError:
                continue
        raise


def unseen_ends(text: str) -> str:
    """A remark on what a name begins or ends with and nobody sees; empty where it is nothing.

    Example:
        >>> unseen_ends("a.png\\r")
        "; it ends in '\\\\r': expected the name alone"
    """
    begins = text[: len(text) - len(text.lstrip())]
    ends = text[len(text.rstrip()) :]
    found = [
        *([f"begins with {ascii(begins)}"] if begins else []),
        *([f"ends in {ascii(ends)}"] if ends else []),
    ]
    return f"; it {' and '.join(found)}: expected the name alone" if found else ""
