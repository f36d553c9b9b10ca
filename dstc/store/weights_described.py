"""Weights that a URL describes: the description and the file it names, copied to this node.

`--set prior=s3://bucket/run/prior.yaml` names a small YAML or JSON file with sizes, schedule and
the `file` of tensors beside it. Both are copied to a folder of their own below `weights_folder()`,
named after a hash of the URL, under their own names: there the engine looks for them.
"""

from __future__ import annotations

import json
import posixpath
import re
import uuid
from pathlib import Path
from typing import Any

import yaml

from dstc.store import retries, storage, urls
from dstc.store.weights_copy import answering, copy_in
from dstc_engine.durable import move_into_place
from dstc_engine.errors import WeightsError
from dstc_engine.weights import places
from dstc_engine.weights.folder import locked, writing
from dstc_engine.weights.registry import file_sha256


def folder_of(url: str) -> Path:
    """Where the copies of a description and its file lie."""
    return places.local_copy(url).parent


def bring_description(url: str, patience: retries.Patience = retries.STEADY) -> dict[str, Any]:
    """Copies a description to this node, anew if it has changed; returns its fields.

    Raises:
        WeightsError: there is none, it is of another form, or the copy cannot be written.
        JobError: storage does not answer.
    """
    try:
        with answering(url):
            data = storage.read_bytes(url, patience)
    except FileNotFoundError as error:
        raise WeightsError(f"description {url}: there is no such description") from error
    try:
        description = yaml.safe_load(data)  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WeightsError(f"description {url}: not readable as YAML or JSON ({error})") from error
    if not isinstance(description, dict):
        raise WeightsError(
            f"description {url}: found {type(description).__name__}; expected fields"
        )
    copy = folder_of(url) / posixpath.basename(url)
    if not (copy.is_file() and copy.read_bytes() == data):
        with writing(copy.parent):
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(f".{uuid.uuid4().hex}.part")
            part.write_bytes(data)
            move_into_place(part, copy)
    return description


def bring_described(url: str) -> Path:
    """Copies a description and the file it names to this node, once for all processes on it.

    The file is copied anew when its description names another sum, or, where that names none, when
    the file in storage is another.

    Returns:
        The copy of the file.

    Raises:
        WeightsError: one of them is missing or not as described, or the copies cannot be written.
        JobError: storage does not answer.
    """
    description = bring_description(url)
    name, source = _file_of(url, description)
    expected = _sum_in(url, description)
    copy = folder_of(url) / name
    note = copy.with_name(f".{name}.from")
    try:
        with answering(source):
            version = _version(source, expected)
    except FileNotFoundError as error:
        raise WeightsError(f"description {url}: it names {name}, which is not beside it") from error
    with writing(copy.parent):
        if _is_noted(copy, note, version):
            return copy
        with locked(copy):
            if not _is_noted(copy, note, version):
                note.unlink(missing_ok=True)
                copy_in(source, copy, expected)
                note.write_text(version)
    return copy


def sum_of_described(url: str) -> str:
    """The sha256 of the file that a description names: as it says, else of the file, copied here.

    Raises:
        As `bring_described`.
    """
    return _sum_in(url, bring_description(url, retries.PROMPT)) or file_sha256(bring_described(url))


def _sum_in(url: str, description: dict[str, Any]) -> str | None:
    expected = description.get("sha256")
    if expected is not None and not re.fullmatch("[0-9a-f]{64}", str(expected)):
        raise WeightsError(
            f"description {url}: sha256 is {expected!r}; expected 64 hex digits, quoted"
        )
    return expected


def _file_of(url: str, description: dict[str, Any]) -> tuple[str, str]:
    """Name and URL of the file of tensors; one that is not named is called as its description."""
    stem = posixpath.splitext(posixpath.basename(url))[0]
    name = description.get("file", f"{stem}.safetensors")
    if not isinstance(name, str) or posixpath.basename(name) != name or name in ("", ".", ".."):
        raise WeightsError(f"description {url}: file is {name!r}; expected a name without folders")
    return name, urls.join(urls.parent(url), name)


def _version(uri: str, sha256: str | None) -> str:
    """What changes when a file in storage does, or what its description says of it."""
    found = storage.facts_of(uri, retries.STEADY)
    known = ("size", "Size", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified")
    facts = {key: str(found[key]) for key in known if key in found}
    return json.dumps({**facts, "sha256": sha256}, sort_keys=True)


def _is_noted(copy: Path, note: Path, version: str) -> bool:
    return copy.is_file() and note.is_file() and note.read_text() == version
