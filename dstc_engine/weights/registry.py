"""Registry of weights by name, and verification of their files.

Published weights lie in the folder of DSTC_WEIGHTS (`places.weights_folder`), in one of two forms:

    <name>.safetensors and <name>.json   as `dstc weights fetch` leaves them: tensors and nothing
                                         else, and a sidecar of {name, source, file,
                                         upstream_sha256, upstream_published, sha256, size, fetched}
    <file>                               as published, put there by hand

The tiny networks ship with the package and are looked for in three places, since a Ray job brings
the code to its nodes and leaves 31 MB of weights behind (`.rayignore`): the folder DSTC_WEIGHTS, if
it holds the file; beside this module; in the installed distribution `dstc`. Their descriptions are
small, belong to the code, and travel with it: wherever a file is found, its sum must be the one
that the code beside it names.

Weights of a user's own are named by the path of their description (`described`).
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from dstc_engine.errors import WeightsError
from dstc_engine.networks import NETWORKS, networks_of
from dstc_engine.presets import Preset
from dstc_engine.weights import described, places
from dstc_engine.weights.places import weights_folder
from dstc_engine.weights.published import PUBLISHED
from dstc_engine.weights.record import Weights, open_described

__all__ = [
    "REGISTRY",
    "Weights",
    "file_sha256",
    "find",
    "names_of",
    "verify",
    "weights_folder",
    "weights_of",
]


def _shipped(name: str, file: str, kind: str, about: str) -> Weights:
    sidecar = (places.SHIPPED / file).with_suffix(".json")
    description = json.loads(sidecar.read_text()) if sidecar.exists() else {}
    return Weights(
        name=name,
        kind=kind,
        about=about,
        file=file,
        source="trained by this project, docs/model-card.md",
        sha256=description.get("sha256"),
        licence="Apache-2.0; trained on artwork credited in NOTICE",
        size=description.get("size", 0),
        shipped=True,
    )


REGISTRY: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        _shipped("emoji64-prior", "prior.safetensors", "prior", "ADM of 64 px, emoji on white"),
        _shipped("emoji64-vit", "vit.safetensors", "vit", "ViT of 64 px, emoji"),
        _shipped(
            "emoji64-clip", "clip.safetensors", "clip", "CLIP of 64 px, emoji and their names"
        ),
        *PUBLISHED,
    )
}


def find(name: str, kind: str = "") -> Weights:
    """The weights of this name, or those that a description of this path or URL describes.

    Args:
        kind: that they must be of, see `Weights`; any by default.

    Raises:
        WeightsError: there are none, or they are of another kind; the message lists those there
            are.
    """
    found = REGISTRY.get(name)
    if found is None and described.is_description(name):
        found = open_described(name)
    if found is not None:
        if kind and found.kind and found.kind != kind:
            others = ", ".join(w.name for w in REGISTRY.values() if w.kind == kind)
            raise WeightsError(
                f"weights {name!r} are of kind {found.kind}; expected {kind}: {others}, or the "
                "path of a description"
            )
        return found
    near = difflib.get_close_matches(name, REGISTRY, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise WeightsError(
        f"unknown weights {name!r}; {hint}expected one of {', '.join(REGISTRY)}, or the path of a "
        "description (.json, .yaml)"
    )


def weights_of(preset: Preset) -> list[Weights]:
    """The weights that a preset looks through, in a fixed order.

    Raises:
        WeightsError: the preset names weights that are not registered, or of another kind.
    """
    found = networks_of(preset).items()
    return [find(name, NETWORKS[field]) for field, names in found for name in names]


def names_of(preset: Preset) -> list[str]:
    """The names of the weights that a preset looks through, in a fixed order."""
    return [name for names in networks_of(preset).values() for name in names]


def verify(name: str) -> Path:
    """Verifies that a file is there and is what the registry says; returns its path.

    Raises:
        WeightsError: the file is missing or another; the message says where to get it.
    """
    weights = find(name)
    if not weights.path.is_file():
        raise WeightsError(f"weights {name!r}: {_missing(weights)}")
    found = file_sha256(weights.path)
    expected = weights.sha256
    if weights.is_published and weights.path.name == f"{name}.safetensors":
        recorded = _sidecar(weights)
        expected = recorded["sha256"]
        if weights.sha256 is not None and recorded["upstream_sha256"] != weights.sha256:
            raise WeightsError(
                f"weights {name!r}: {weights.path} was made from a file of sha256 "
                f"{recorded['upstream_sha256']}; expected {weights.sha256}"
            )
    if expected is not None and found != expected:
        raise WeightsError(
            f"weights {name!r}: {weights.path} has sha256 {found}; expected {expected}"
        )
    return weights.path


def _missing(weights: Weights) -> str:
    if weights.shipped:
        looked = ", ".join(str(folder) for folder in dict.fromkeys(places.shipped_folders()))
        return (
            f"no file {weights.file} in {looked}; it ships with the package: install dstc on every "
            "node, or put the file into the folder that DSTC_WEIGHTS names"
        )
    if weights.described is not None:
        return f"no file {weights.path}; its description names it"
    return (
        f"no file {weights.path}; bring it with `dstc weights fetch {weights.name}`, or get it "
        f"from {weights.source} (DSTC_WEIGHTS names the folder)"
    )


def _sidecar(weights: Weights) -> dict[str, Any]:
    path = weights.path.with_suffix(".json")
    try:
        description = json.loads(path.read_text())
        return {name: str(description[name]) for name in ("sha256", "upstream_sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"weights {weights.name!r}: {path} does not tell what lies beside it "
            f"({type(error).__name__}: {error}); remove both, and `dstc weights fetch "
            f"{weights.name}`"
        ) from error


def file_sha256(path: Path) -> str:
    """The file's sha256; hashed once per process for as long as the file does not change."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
