"""Which files a manifest is made of: a file, a folder of them, or a pattern."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from dstc.errors import ManifestError
from dstc.store import storage, urls
from dstc.store.spellings import spellings
from dstc.text import describe, redact

_MARKS = re.compile(r"[*?\[]")
# What a run writes: its folder has job.json beside these.
_OF_A_RUN = re.compile(
    r"(.*/)?(?:(?:results|metrics)/[a-z]+-\d{5,}|images/\d{5,}-[0-9a-f]{16})\.parquet"
)


def find_manifest_files(uri: str) -> tuple[str, list[tuple[str, str]]]:
    """The manifest's folder, and (URI, name relative to it) of each of its files.

    What exists is taken as it is named, a `[1]` included. Hidden files are no data, nor are the
    results of runs whose OUTPUT lies inside.

    Raises:
        ManifestError: there are none, or storage cannot list them.
        StorageError: the URL cannot be used.
    """
    shown = redact(uri)
    try:
        there, is_folder = _existing(uri)
        if there and is_folder:
            root = _folder(there)
            found = _without_results(root, storage.find_files(there, ".parquet"))
            if not found:
                raise ManifestError(f"{shown}: the folder holds no .parquet file")
        elif there:
            root, found = urls.parent(there), [there]
        elif _is_pattern(uri):
            root = folder_by_name(uri)
            found = _without_results(root, _visible(root, uri, storage.glob_files(uri)))
            if not found:
                raise ManifestError(f"{shown}: no file matches")
        else:
            raise ManifestError(f"{shown}: there is no such manifest")
    except OSError as error:
        raise ManifestError(f"{shown}: cannot be listed: {describe(error)}") from error
    return root, [(file, _inside(root, file)) for file in found]


def manifest_folder(uri: str) -> str:
    """What relative URIs of a manifest start at, and the names of its files are relative to.

    The manifest itself where it is a folder, else the folder that it lies in; of a pattern, the
    folder before its first mark.

    Raises:
        OSError: storage does not answer.
    """
    there, is_folder = _existing(uri)
    if there is None:
        return folder_by_name(uri)
    return _folder(there) if is_folder else urls.parent(there)


def folder_by_name(uri: str) -> str:
    """`manifest_folder` of a manifest that is gone, as far as its name tells."""
    if _is_pattern(uri):
        return urls.parent(_MARKS.split(uri)[0] + "x")
    return urls.parent(uri) if uri.endswith(".parquet") else _folder(uri)


def _existing(uri: str) -> tuple[str | None, bool]:
    """The first spelling of the URI that is there, if any is, and whether it is a folder."""
    for spelling in spellings(uri):
        if storage.is_folder(spelling):
            return spelling, True
        if storage.exists(spelling):
            return spelling, False
    return None, False


def _folder(uri: str) -> str:
    return uri.rstrip("/") or "/"


def _is_pattern(uri: str) -> bool:
    # In a web address `?` begins the query, and no server lists its files.
    return _MARKS.search(uri) is not None and not uri.startswith(("http://", "https://"))


def _inside(root: str, file: str) -> str:
    return file.removeprefix(root.rstrip("/") + "/")


def _visible(root: str, pattern: str, files: Iterable[str]) -> list[str]:
    """Without what is hidden, unless the pattern itself begins a name with `.` or `_`."""
    named = [part for part in _inside(root, pattern).split("/") if storage.is_hidden(part)]

    def is_meant(part: str) -> bool:
        return not storage.is_hidden(part) or any(fnmatchcase(part, name) for name in named)

    return [file for file in files if all(map(is_meant, _inside(root, file).split("/")))]


def _without_results(root: str, files: Sequence[str]) -> list[str]:
    """Without the parts of runs that have their folders in here."""
    matches = {file: _OF_A_RUN.fullmatch("/" + _inside(root, file)) for file in files}
    runs = {match[1] for match in matches.values() if match}
    ours = {run for run in runs if storage.exists(posixpath.join(root, run.strip("/"), "job.json"))}
    return [file for file, match in matches.items() if not (match and match[1] in ours)]
