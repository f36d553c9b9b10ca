"""Weights in a bucket: put there once by a person, brought to each node once by whoever needs them.

DSTC_WEIGHTS names the bucket, `s3://bucket/weights` or any other fsspec URL. It holds what a folder
on disk would, `<name>.safetensors` and `<name>.json`; the second is written last, so what has none
is no weights. Each node keeps copies in `registry.weights_folder()`. A path, be it on a volume that
all nodes share, is no bucket: weights are loaded from there, and nothing is copied.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dstc.store import retries, storage, urls
from dstc.store.urls import is_url
from dstc.store.weights_copy import answering, copy_in
from dstc.store.weights_described import bring_described, sum_of_described
from dstc_engine.errors import WeightsError
from dstc_engine.presets import Preset
from dstc_engine.weights import fetch, registry
from dstc_engine.weights.described import is_description
from dstc_engine.weights.folder import locked, writing


def bucket() -> str | None:
    """Where weights come from, when that is no folder of this machine.

    Raises:
        StorageError: the URL carries credentials.
    """
    named = os.environ.get("DSTC_WEIGHTS", "")
    if not urls.is_url(named):
        return None
    urls.refuse_credentials(named, "DSTC_WEIGHTS")
    return named.rstrip("/")


def use(driver_bucket: str | None) -> None:
    """Takes weights from where the driver takes them, unless this node names a place of its own."""
    if driver_bucket and not os.environ.get("DSTC_WEIGHTS"):
        os.environ["DSTC_WEIGHTS"] = driver_bucket


def description_of(name: str, patience: retries.Patience = retries.PROMPT) -> dict[str, Any] | None:
    """The bucket's description of weights, or None when it has none of this name.

    Raises:
        WeightsError: what it says is of another kind than expected.
        OSError: the bucket does not answer.
    """
    source = bucket()
    assert source is not None, "asked only where there is a bucket"
    uri = urls.join(source, f"{name}.json")
    try:
        description = json.loads(storage.read_bytes(uri, patience))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WeightsError(f"{uri}: not a description of weights ({error})") from error
    expected = {"name": str, "upstream_sha256": str, "sha256": str, "size": int}
    if not isinstance(description, dict) or any(
        not isinstance(description.get(key), kind) for key, kind in expected.items()
    ):
        raise WeightsError(f"{uri}: expected {', '.join(expected)}")
    weights = registry.find(name)
    upstream = description["upstream_sha256"]
    if weights.sha256 is not None and upstream != weights.sha256:
        raise WeightsError(
            f"{uri}: made from a file of sha256 {upstream}; expected {weights.sha256}"
        )
    return description


def sums(preset: Preset) -> dict[str, str]:
    """The sha256, as published, of those of a preset's weights that come from storage.

    Little more than descriptions is read: the files are gigabytes.

    Raises:
        WeightsError: weights are not there, or others than the registry names.
        JobError, OSError: storage does not answer.
    """
    found = {}
    for url in _described_by_url(preset):
        found[url] = sum_of_described(url)
    if bucket() is not None:
        descriptions = _all_descriptions(preset, retries.PROMPT)
        found |= {name: str(record["upstream_sha256"]) for name, record in descriptions.items()}
    return found


def bring(preset: Preset) -> None:
    """Copies what a preset needs from storage to this node, once for all processes on it.

    That is a prior whose description is a URL, and what DSTC_WEIGHTS has, where it names a bucket.
    Copies that are there already stay, as long as they are still described so.

    Raises:
        WeightsError: the bucket lacks weights, or has others than the registry names, or the copies
            cannot be written.
        JobError: the bucket does not answer.
    """
    for url in _described_by_url(preset):
        bring_described(url)
    source = bucket()
    if source is None:
        return
    with answering(source):
        descriptions = _all_descriptions(preset, retries.STEADY)
    for name, record in descriptions.items():
        _bring_one(source, name, record)


def bring_one(name: str) -> None:
    """As `bring`, for one network that no preset needs.

    Raises:
        WeightsError, JobError: as `bring`.
    """
    if is_description(name):
        if is_url(name):
            bring_described(name)
        return
    source = bucket()
    if source is None or not registry.find(name).is_published:
        return
    with answering(source):
        description = description_of(name, retries.STEADY)
    if description is None:
        raise WeightsError(
            f"no weights {name} in {source}; bring them with `dstc weights fetch {name}`"
        )
    _bring_one(source, name, description)


def put(name: str) -> None:
    """Copies converted weights of this machine into the bucket, their description last.

    Raises:
        OSError: the bucket takes nothing.
    """
    source = bucket()
    assert source is not None, "asked only where there is a bucket"
    storage.write_file(urls.join(source, f"{name}.safetensors"), fetch.converted(name))
    storage.write_bytes(
        urls.join(source, f"{name}.json"), fetch.sidecar(name).read_bytes(), retries.STEADY
    )


def _described_by_url(preset: Preset) -> list[str]:
    return [name for name in registry.names_of(preset) if is_description(name) and is_url(name)]


def _all_descriptions(preset: Preset, patience: retries.Patience) -> dict[str, dict[str, Any]]:
    names = [w.name for w in registry.weights_of(preset) if w.is_published]
    descriptions = {name: description_of(name, patience) for name in names}
    if missing := [name for name, record in descriptions.items() if record is None]:
        raise WeightsError(fetch.missing_from(bucket() or "", preset, missing))
    return {name: record for name, record in descriptions.items() if record is not None}


def _bring_one(source: str, name: str, description: dict[str, Any]) -> None:
    copy, note = fetch.converted(name), fetch.sidecar(name)
    if _is_there(
        copy, note, description
    ):  # asked before anything is locked: the folder may be read-only
        return
    with writing(copy.parent):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with locked(copy):
            if _is_there(copy, note, description):  # another process of this node was at it
                return
            note.unlink(missing_ok=True)
            uri = urls.join(source, f"{name}.safetensors")
            try:
                copy_in(uri, copy, description["sha256"])
            except FileNotFoundError as error:
                raise WeightsError(f"{uri}: gone, while its description is there") from error
            note.write_text(json.dumps(description, indent=2) + "\n")


def _is_there(copy: Path, note: Path, description: dict[str, Any]) -> bool:
    """Whether the copy on this node is what the bucket describes; sums are computed on loading."""
    try:
        return (
            json.loads(note.read_text()) == description
            and copy.stat().st_size == description["size"]
        )
    except (OSError, ValueError):
        return False
