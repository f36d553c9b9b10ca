"""Records of weights files: kind, source, terms and sums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstc_engine.weights import places
from dstc_engine.weights.described import (
    description_path,
    file_of,
    kind_of,
    read_description,
    settings_of,
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of weights.

    Attributes:
        name: what presets call it; for weights with a description of their own, its path.
        kind: "prior", "vit", "clip", "face", "vgg" or "student". about: what it is, in a few words.
        upstream: what its publisher calls it: "timm name", "open_clip name/tag" or a repository.
        file: its file name. source: where it comes from, for a person to read.
        url: where it can be fetched; None where only a person can.
        sha256: of the published file; None where there is no such sum (what the first fetch finds
            is recorded, and the run records what it finds).
        size: of that file, bytes; 0 where unknown.
        licence: of the weights. conditions: what else their use is bound to.
        unread: patterns of tensor names that only the published file has, and that are left out.
        shipped: it comes with this package.
        described: path of the description of weights of the user's own, see `described`.
        settings: what of that description decides images, besides the file.
    """

    name: str
    file: str
    source: str
    sha256: str | None
    licence: str
    kind: str = ""
    about: str = ""
    upstream: str = ""
    url: str | None = None
    size: int = 0
    conditions: str = ""
    unread: tuple[str, ...] = ()
    shipped: bool = False
    described: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_published(self) -> bool:
        """It comes from elsewhere, into the weights folder."""
        return not self.shipped and self.described is None

    @property
    def path(self) -> Path:
        """Where the file is, or the place where it is expected."""
        if self.described is not None:
            return Path(self.described).parent / self.file
        if self.shipped:
            candidates = (folder / self.file for folder in places.shipped_folders())
            return next((p for p in candidates if p.is_file()), places.SHIPPED / self.file)
        converted = places.weights_folder() / f"{self.name}.safetensors"
        return converted if converted.is_file() else places.weights_folder() / self.file

    def description(self) -> Mapping[str, Any]:
        """Description of weights that are not published: architecture, mean, std, schedule.

        Raises:
            WeightsError: the description cannot be read.
        """
        if self.described is not None:
            return read_description(Path(self.described))
        found: dict[str, Any] = json.loads(
            (places.SHIPPED / self.file).with_suffix(".json").read_text()
        )
        return found


def open_described(name: str) -> Weights:
    """The weights behind a description.

    Raises:
        WeightsError: it is missing, or not a description.
    """
    path = description_path(name)
    description = read_description(path)
    return Weights(
        name=name,
        kind=kind_of(description),
        file=file_of(path, description),
        source=str(description.get("about", "the user's own")),
        about=str(description.get("about", "")),
        sha256=description.get("sha256"),
        licence=str(description.get("licence", "not told")),
        described=str(path),
        settings=settings_of(description),
    )
