"""Weights brought into the folder: fetched or put there by hand, checked, converted.

<folder>/<name>.safetensors   what networks are loaded from: tensors and nothing else
<folder>/<name>.json          where it came from, and the sums of both files
<folder>/<file>               as published, where a person put it there
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from dstc_engine.durable import move_into_place
from dstc_engine.errors import WeightsError
from dstc_engine.presets import Preset
from dstc_engine.weights import registry
from dstc_engine.weights.download import (
    Downloaded,
    NotServed,
    OnProgress,
    download,
    refuse_offline,
)
from dstc_engine.weights.folder import check_space, locked, writing
from dstc_engine.weights.registry import Weights, file_sha256, weights_folder


class State(StrEnum):
    """State of weights on this machine."""

    SHIPPED = "shipped"
    DESCRIBED = "described"
    PRESENT = "present"
    ORIGINAL = "original present"
    MISSING = "missing"


def state_of(weights: Weights) -> State:
    """The state of these weights; no sum is computed."""
    if weights.shipped:
        return State.SHIPPED if weights.path.is_file() else State.MISSING
    if weights.described is not None:
        return State.DESCRIBED if weights.path.is_file() else State.MISSING
    if converted(weights.name).is_file() and sidecar(weights.name).is_file():
        return State.PRESENT
    return State.ORIGINAL if original(weights).is_file() else State.MISSING


def converted(name: str) -> Path:
    """Path of the converted file of published weights, once it is there."""
    return weights_folder() / f"{name}.safetensors"


def sidecar(name: str) -> Path:
    """Path of the JSON file that describes the converted one."""
    return weights_folder() / f"{name}.json"


def original(weights: Weights) -> Path:
    """Path of the file as published, if a person put it there."""
    return weights_folder() / weights.file


def fetch(
    name: str,
    *,
    keep_original: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Path:
    """Makes weights ready to be loaded; nothing is done for those that are.

    A file that a person put into the folder is converted and stays. Otherwise the file is
    downloaded (from below DSTC_MIRROR where that is set), checked, converted and removed.

    Args:
        name: of the registry.
        keep_original: keep what was downloaded, too.
        on_progress: told of bytes as they come.
        on_wait: called when another process or thread is at the same weights.

    Returns:
        The file to load.

    Raises:
        WeightsError: unknown weights; a file that cannot be brought, with what to do by hand; one
            of another sum, or that holds something else; or a folder that cannot be written.
    """
    weights = registry.find(name)
    if not weights.is_published or state_of(weights) is State.PRESENT:
        return registry.verify(name)
    with writing(weights_folder()):
        weights_folder().mkdir(parents=True, exist_ok=True)
        with locked(converted(name), on_wait):
            if state_of(weights) is State.PRESENT:  # another process was at it
                return registry.verify(name)
            if original(weights).is_file():
                _convert(weights, _check(weights))
            else:
                brought = _bring(weights, on_progress)
                _convert(weights, brought)
                if keep_original:
                    move_into_place(brought.path, original(weights))
                else:
                    brought.path.unlink()
    return registry.verify(name)


def _check(weights: Weights) -> Downloaded:
    """A file that a person put there, if it is the right one."""
    path = original(weights)
    found = file_sha256(path)
    if weights.sha256 is not None and found != weights.sha256:
        raise WeightsError(
            f"weights {weights.name!r}: {path} has sha256 {found}; expected {weights.sha256}; "
            "remove it, or put the right file there"
        )
    return Downloaded(path, found, is_published=weights.sha256 is not None)


def _bring(weights: Weights, on_progress: OnProgress) -> Downloaded:
    url = weights.url
    mirror = os.environ.get("DSTC_MIRROR")
    if mirror:
        url = f"{mirror.rstrip('/')}/{weights.file}"
    try:
        refuse_offline(f"weights {weights.name!r}")
        if url is None:
            raise NotServed(f"weights {weights.name!r}: no program can fetch them")
        # Not under its published name: cut short here, it would pass for a person's own file.
        path = weights_folder() / f"{weights.name}.download{Path(weights.file).suffix}"
        return download(url, path, weights.sha256, weights.size, on_progress)
    except NotServed as error:
        raise WeightsError(f"{error}. {by_hand(weights)}") from error


def _convert(weights: Weights, brought: Downloaded) -> None:
    from dstc_engine.weights.convert import convert  # brings torch

    size = brought.path.stat().st_size
    check_space(weights_folder(), size, f"{weights.name} converted, beside the file as published,")
    convert(weights, brought.path, weights_folder(), brought.sha256, brought.is_published)


def upstream_sum(weights: Weights) -> str:
    """The sha256 of the file as published, after a look at the file that is here.

    It is what tells weights apart, converted or not.

    Raises:
        WeightsError: the file is missing or another.
    """
    path = registry.verify(weights.name)
    if weights.name in registry.REGISTRY and state_of(weights) is State.PRESENT:
        return str(json.loads(sidecar(weights.name).read_text())["upstream_sha256"])
    return file_sha256(path)


def by_hand(weights: Weights) -> str:
    """Instructions to bring weights by hand."""
    return (
        f"By hand: get {weights.file} from {weights.source} and put it into {weights_folder()} "
        f"under this name; then `dstc weights fetch {weights.name}` converts it"
    )


def require(preset: Preset) -> None:
    """Checks that all weights of a preset are there; no sum is computed.

    Raises:
        WeightsError: some are not; the message names them and the command that brings them.
    """
    missing = [w for w in registry.weights_of(preset) if state_of(w) is State.MISSING]
    # What should have come with the package has a message of its own.
    if names := [w.name for w in missing if w.is_published]:
        raise WeightsError(missing_from(str(weights_folder()), preset, names))


def missing_from(place: str, preset: Preset, names: Sequence[str]) -> str:
    """Error for weights of a preset that are not where they should be."""
    return (
        f"preset {preset.name!r}: no weights {', '.join(names)} in {place}; bring them with "
        f"`dstc weights fetch --preset {preset.name}` (DSTC_WEIGHTS names the place)"
    )
