"""Weights in a bucket: put there once by a person, brought to each node once by whoever needs them.

DSTC_WEIGHTS names the bucket, `s3://bucket/weights` or any other fsspec URL. It holds what a folder
on disk would, `<name>.safetensors` and `<name>.json`; the second is written last, so what has none
is no weights. Each node keeps copies in `registry.weights_folder()`. A path, be it on a volume that
all nodes share, is no bucket: weights are loaded from there, and nothing is copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dstc_engine.errors import WeightsError
from dstc_engine.presets import Preset
from dstc_engine.weights import described, fetch, places, registry
from dstc_engine.weights.folder import locked, writing
from jobs.errors import JobError
from jobs.store import storage

_PIECE = 1 << 20


def bucket() -> str | None:
    """Where weights come from, when that is no folder of this machine.

    Raises:
        StorageError: the URL carries credentials.
    """
    named = os.environ.get("DSTC_WEIGHTS", "")
    if not storage.is_url(named):
        return None
    storage.refuse_credentials(named, "DSTC_WEIGHTS")
    return named.rstrip("/")


def told_of(name: str, patience: storage.Patience = storage.PROMPT) -> dict[str, Any] | None:
    """What the bucket says of weights, or None when it has none of this name.

    Raises:
        WeightsError: what it says is of another kind than expected.
        OSError: the bucket does not answer.
    """
    source = bucket()
    assert source is not None, "asked only where there is a bucket"
    uri = storage.join(source, f"{name}.json")
    try:
        told = json.loads(storage.read_bytes(uri, patience))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WeightsError(f"{uri}: not a description of weights ({error})") from error
    expected = {"name": str, "upstream_sha256": str, "sha256": str, "size": int}
    if not isinstance(told, dict) or any(
        not isinstance(told.get(key), kind) for key, kind in expected.items()
    ):
        raise WeightsError(f"{uri}: expected {', '.join(expected)}")
    weights = registry.find(name)
    upstream = told["upstream_sha256"]
    if weights.sha256 is not None and upstream != weights.sha256:
        raise WeightsError(
            f"{uri}: made from a file of sha256 {upstream}; expected {weights.sha256}"
        )
    return told


def sums(preset: Preset) -> dict[str, str]:
    """The sha256, as published, of each of a preset's weights; nothing but descriptions is read.

    Raises:
        WeightsError: the bucket lacks weights, or has others than the registry names.
        OSError: the bucket does not answer.
    """
    others = [w for w in registry.weights_of(preset) if not w.is_published]
    told = _told_of_all(preset, storage.PROMPT)
    return {w.name: w.sha256 or fetch.upstream_sum(w) for w in others} | {
        name: str(record["upstream_sha256"]) for name, record in told.items()
    }


def bring(preset: Preset) -> None:
    """Copies what a preset needs from the bucket to this node, once for all processes on it.

    Nothing is done where DSTC_WEIGHTS names no bucket. Copies that are there already stay, as long
    as the bucket still describes them so.

    Raises:
        WeightsError: the bucket lacks weights, or has others than the registry names, or the copies
            cannot be written.
        JobError: the bucket does not answer.
    """
    bring_described(preset)
    source = bucket()
    if source is None:
        return
    with _answering(source):
        told = _told_of_all(preset, storage.STEADY)
    for name, record in told.items():
        _bring_one(source, name, record)


def bring_described(preset: Preset) -> None:
    """Copies weights whose description a preset names by its URL to this node, once.

    Raises:
        WeightsError: there is no such description or file, or the copies cannot be written.
        JobError: storage does not answer.
    """
    for name in registry.names_of(preset):
        if described.is_description(name) and storage.is_url(name):
            _bring_described(name)


def _bring_described(url: str) -> None:
    copy = places.local_copy(url)
    text = _found(url)
    with writing(copy.parent):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with locked(copy):
            is_new = not copy.is_file() or copy.read_bytes() != text
            copy.write_bytes(text)
            file = described.file_of(copy, described.read_description(copy))
            # Its sum is compared on loading, where the description gives one.
            if is_new or not (copy.parent / file).is_file():
                source = storage.join(storage.parent(url), file)
                with _answering(source):
                    if not storage.exists(source):
                        raise WeightsError(f"{source}: no such file, which {url} names")
                _copy(source, copy.parent / file, None)


def _found(url: str) -> bytes:
    with _answering(url):
        try:
            return storage.read_bytes(url, storage.STEADY)
        except FileNotFoundError as error:
            raise WeightsError(f"description {url}: there is no such file") from error


def put(name: str) -> None:
    """Copies converted weights of this machine into the bucket, their description last.

    Raises:
        OSError: the bucket takes nothing.
    """
    source = bucket()
    assert source is not None, "asked only where there is a bucket"
    storage.write_file(storage.join(source, f"{name}.safetensors"), fetch.converted(name))
    storage.write_bytes(
        storage.join(source, f"{name}.json"), fetch.sidecar(name).read_bytes(), storage.STEADY
    )


def _told_of_all(preset: Preset, patience: storage.Patience) -> dict[str, dict[str, Any]]:
    names = [w.name for w in registry.weights_of(preset) if w.is_published]
    told = {name: told_of(name, patience) for name in names}
    if missing := [name for name, record in told.items() if record is None]:
        raise WeightsError(fetch.missing_from(bucket() or "", preset, missing))
    return {name: record for name, record in told.items() if record is not None}


def _bring_one(source: str, name: str, told: dict[str, Any]) -> None:
    copy, note = fetch.converted(name), fetch.sidecar(name)
    if _is_there(copy, note, told):  # asked before anything is locked: the folder may be read-only
        return
    with writing(copy.parent):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with locked(copy):
            if _is_there(copy, note, told):  # another process of this node was at it
                return
            note.unlink(missing_ok=True)
            _copy(storage.join(source, f"{name}.safetensors"), copy, told["sha256"])
            note.write_text(json.dumps(told, indent=2) + "\n")


def _is_there(copy: Path, note: Path, told: dict[str, Any]) -> bool:
    """Whether the copy on this node is what the bucket describes; sums are computed on loading."""
    try:
        return json.loads(note.read_text()) == told and copy.stat().st_size == told["size"]
    except (OSError, ValueError):
        return False


def _copy(uri: str, path: Path, sha256: str | None) -> None:
    """Copies a file a piece at a time; a piece that does not come is asked for again by itself."""
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with _answering(uri), storage.open_input(uri, storage.STEADY) as source:
            with writing(path.parent), part.open("wb") as target:
                while piece := _read(uri, source):
                    digest.update(piece)
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())  # else a power cut may leave the name and not the bytes
        if sha256 is not None and digest.hexdigest() != sha256:
            raise WeightsError(
                f"{uri}: sha256 {digest.hexdigest()}; expected {sha256}, as the .json beside it "
                "says. Remove both, and `dstc weights fetch` puts them there anew"
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # nodes are near their bucket: a broken copy starts anew


def _read(uri: str, source: IO[bytes]) -> bytes:
    with _answering(uri):  # here, since outside of it an OSError is one of the disk
        return source.read(_PIECE)


@contextlib.contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        told = storage.redact(f"{type(error).__name__}: {error}")
        raise JobError(f"weights cannot be read from {uri}: {told}") from error
