"""Ids made of names: safe as names of files, each once, and the same for the same name.

A name that is safe is its own id. Of any other, what is not safe is replaced, and eight hex digits
of its hash are added, so that "a b" and "a-b" stay apart whatever stands in other rows. The way
back is the column that keeps the name itself.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata

from dstc.worker.row import MAX_ID, MAX_SEGMENT

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# Of an id, for what pairing adds to it.
_ROOM = 100
_LONGEST, _LONGEST_SEGMENT = MAX_ID - _ROOM, MAX_SEGMENT - _ROOM


def stem(name: str) -> str:
    """A file's name without its ending: "cats/a.b.png" is "cats/a.b"."""
    return posixpath.splitext(name)[0]


def safe_id(name: str) -> str:
    """An id for a name; names that differ have ids that differ.

    Example:
        >>> safe_id("cats/1"), safe_id("Käse & Brot")
        ('cats/1', 'Kase-Brot-602b1a7c')
    """
    segments = [_safe_segment(segment) for segment in name.split("/")]
    found = "/".join(segment for segment in segments if segment not in ("", ".", ".."))
    if found == name and len(found) <= _LONGEST and _is_short(found):
        return found
    short = "/".join(segment[:_LONGEST_SEGMENT] for segment in found.split("/"))
    short = short[-_LONGEST:].lstrip("/")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{short}-{digest}" if short else digest


def slug(name: str) -> str:
    """A short part of an id for a style: no `/`, and nowhere two `-` in a row."""
    found = re.sub("-{2,}", "-", _safe_segment(name.replace("/", "-"))).strip("-.")
    return found[:60].rstrip("-.") or hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_short(text: str) -> bool:
    return all(len(segment) <= _LONGEST_SEGMENT for segment in text.split("/"))


def _safe_segment(text: str) -> str:
    if text.isascii() and not _UNSAFE.search(text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNSAFE.sub("-", plain).strip("-")


class UniqueIds:
    """Gives an id that came before another one: "a", "a-2", "a-3"; about 70 bytes a row.

    Attributes:
        repeated: ids so far that had come before.
    """

    def __init__(self) -> None:
        # Of 64 bits: two ids that share one cost a number that was not needed.
        self._seen: set[int] = set()
        self._counts: dict[str, int] = {}
        self.repeated = 0

    def take(self, wanted: str) -> str:
        """The id, or it with a number."""
        found = wanted
        while hash(found) in self._seen:
            count = self._counts.get(wanted, 1) + 1
            self._counts[wanted] = count
            found = f"{wanted}-{count}"
        self.repeated += found != wanted
        self._seen.add(hash(found))
        return found
