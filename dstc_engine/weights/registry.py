"""Which weights there are: name, source, sha256, licence, size, and where the file lies.

Published checkpoints are looked for in the folder that the environment variable DSTC_WEIGHTS names
(default: ~/.cache/dstc/weights), converted (`<name>.safetensors`, described by `<name>.json`) or as
published. Where the variable is a URL, jobs copy from there into the folder. The tiny networks ship
with the package and are looked for in three places, since a Ray job brings the code to its nodes
and leaves 31 MB of weights behind (`.rayignore`): the folder DSTC_WEIGHTS, if it holds the file;
beside this module; in the installed distribution `dstc`. Their descriptions are small, belong to
the code, and travel with it: wherever a file is found, its sum must be the one that the code beside
it names.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dstc_engine.errors import WeightsError
from dstc_engine.presets import Preset

_SHIPPED = Path(__file__).parent / "tiny"
_DISTRIBUTION = "dstc"
_IN_DISTRIBUTION = "dstc_engine/weights/tiny"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of weights.

    Attributes:
        name: what presets call it. file: its file name. source: where it comes from.
        sha256: of the file; None where its publisher gives none (the run records what it finds).
        licence: of the weights. size: bytes; 0 where unknown.
        shipped: it comes with this package (`shipped_folders`).
        kind: "prior", "vit", "clip", "face" or "vgg". about: what it is, in a few words.
        url: where `file` can be fetched without a person; None where `source` tells what to do.
        conditions: of the licence, in a sentence.
    """

    name: str
    file: str
    source: str
    sha256: str | None
    licence: str
    size: int = 0
    shipped: bool = False
    kind: str = ""
    about: str = ""
    url: str | None = None
    conditions: str = ""

    @property
    def path(self) -> Path:
        """Where the file is, or the place where it is expected."""
        if not self.shipped:
            converted = weights_folder() / f"{self.name}.safetensors"
            is_whole = converted.is_file() and converted.with_suffix(".json").is_file()
            return converted if is_whole else weights_folder() / self.file
        places = (folder / self.file for folder in shipped_folders())
        return next((place for place in places if place.is_file()), _SHIPPED / self.file)

    def description(self) -> dict[str, Any]:
        """What the training run told of shipped weights: architecture, mean, std, steps."""
        sidecar = (_SHIPPED / self.file).with_suffix(".json")
        found: dict[str, Any] = json.loads(sidecar.read_text())
        return found


def shipped_folders() -> Iterator[Path]:
    """Folders in which shipped weights may lie, the first to be looked at first."""
    # Only when it is named: the default folder may hold files of other programs.
    if os.environ.get("DSTC_WEIGHTS"):
        yield weights_folder()
    yield _SHIPPED
    # All of this name: an egg-info folder in the working directory hides the installed one.
    for distribution in importlib.metadata.distributions(name=_DISTRIBUTION):
        yield Path(str(distribution.locate_file(_IN_DISTRIBUTION)))
        source = _editable_source(distribution)
        if source is not None:
            yield source / _IN_DISTRIBUTION


def _editable_source(distribution: importlib.metadata.Distribution) -> Path | None:
    """The checkout behind an editable install, whose own folder holds no package."""
    url = urlsplit(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def weights_folder() -> Path:
    """Where published checkpoints are looked for: a folder of this machine.

    Where DSTC_WEIGHTS is a URL, it is the folder that DSTC_WEIGHTS_CACHE names, for copies.
    """
    named = os.environ.get("DSTC_WEIGHTS")
    if named and "://" in named:
        named = os.environ.get("DSTC_WEIGHTS_CACHE")
    return Path(named or Path.home() / ".cache" / "dstc" / "weights")


def _openai_clip(name: str, model: str, sha256: str) -> Weights:
    return Weights(
        name=name,
        file=f"{model}.pt",
        source=f"https://openaipublic.azureedge.net/clip/models/{sha256}/{model}.pt",
        sha256=sha256,
        licence="MIT",
    )


def _shipped(name: str, file: str) -> Weights:
    sidecar = (_SHIPPED / file).with_suffix(".json")
    told = json.loads(sidecar.read_text()) if sidecar.exists() else {}
    return Weights(
        name=name,
        file=file,
        source="trained by this project, docs/model-card.md",
        sha256=told.get("sha256"),
        licence="Apache-2.0; trained on artwork credited in NOTICE",
        size=told.get("size", 0),
        shipped=True,
    )


_PUBLISHED = (
    Weights(
        name="adm-imagenet256",
        file="256x256_diffusion_uncond.pt",
        source="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
        "256x256_diffusion_uncond.pt",
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        licence="MIT",
        size=2_211_383_297,
    ),
    Weights(
        name="adm-ffhq256",
        file="ffhq_10m.pt",
        source="the P2-weighting project's FFHQ model; ask its authors' page for the file",
        sha256=None,
        licence="as its authors state; FFHQ itself is CC BY-NC-SA 4.0",
    ),
    Weights(
        name="dino-vitb8",
        file="dino_vitbase8_pretrain.pth",
        source="https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/"
        "dino_vitbase8_pretrain.pth",
        sha256=None,
        licence="Apache-2.0",
    ),
    Weights(
        name="arcface-ir-se50",
        file="model_ir_se50.pth",
        source="the InsightFace_Pytorch project's IR-SE50",
        sha256=None,
        licence="MIT",
    ),
    _openai_clip(
        "clip-rn50", "RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
    ),
    _openai_clip(
        "clip-rn50x4", "RN50x4", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"
    ),
    _openai_clip(
        "clip-rn50x16",
        "RN50x16",
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    ),
    _openai_clip(
        "clip-vit-b-32",
        "ViT-B-32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    _openai_clip(
        "clip-vit-b-16",
        "ViT-B-16",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
)

REGISTRY: dict[str, Weights] = {
    w.name: w
    for w in (
        _shipped("emoji64-prior", "prior.safetensors"),
        _shipped("emoji64-vit", "vit.safetensors"),
        _shipped("emoji64-clip", "clip.safetensors"),
        *_PUBLISHED,
    )
}


def find(name: str) -> Weights:
    """The weights of this name.

    Raises:
        WeightsError: there are none; the message lists those there are.
    """
    if name not in REGISTRY:
        raise WeightsError(f"unknown weights {name!r}; expected one of {', '.join(REGISTRY)}")
    return REGISTRY[name]


def weights_of(preset: Preset) -> list[Weights]:
    """The weights that a preset looks through, in a fixed order.

    Raises:
        WeightsError: the preset names weights that are not registered.
    """
    names = [preset.prior, preset.dino, *preset.clips]
    if preset.weight_identity:
        names.append(preset.arcface)
    return [find(name) for name in names]


def verify(name: str) -> Path:
    """The path of a file that is there and is what the registry says.

    Raises:
        WeightsError: the file is missing or another; the message says where to get it.
    """
    weights = find(name)
    if not weights.path.is_file():
        if weights.shipped:
            looked = ", ".join(str(folder) for folder in dict.fromkeys(shipped_folders()))
            raise WeightsError(
                f"weights {name!r}: no file {weights.file} in {looked}; it ships with the package: "
                "install dstc on every node, or put the file into the folder that DSTC_WEIGHTS "
                "names"
            )
        raise WeightsError(
            f"weights {name!r}: no file {weights.path}; `dstc weights fetch {name}` brings it from "
            f"{weights.source} (DSTC_WEIGHTS names the folder)"
        )
    path, expected = weights.path, weights.sha256
    if not weights.shipped and path.name == f"{name}.safetensors":
        expected = _sum_beside(weights, path)
    found = file_sha256(path)
    if expected is not None and found != expected:
        raise WeightsError(f"weights {name!r}: {path} has sha256 {found}; expected {expected}")
    return path


def _sum_beside(weights: Weights, path: Path) -> str:
    """The sum of a converted file, as the description beside it tells."""
    beside = path.with_suffix(".json")
    try:
        told = json.loads(beside.read_text())
        upstream, converted = told["upstream_sha256"], told["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{beside}: not a description of weights ({error!r})") from error
    if weights.sha256 is not None and upstream != weights.sha256:
        raise WeightsError(
            f"{beside}: made from a file of sha256 {upstream}; expected {weights.sha256}"
        )
    return str(converted)


def file_sha256(path: Path) -> str:
    """The file's sha256; hashed once per process for as long as the file does not change."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
