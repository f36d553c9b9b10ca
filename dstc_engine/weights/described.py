"""Weights of a user's own, named by the path of a small JSON or YAML file that describes them.

    dstc translate ROWS OUT --preset imagenet256-image --set prior=cats.yaml

    file: cats.pt          # beside the description; default: its own name, .safetensors or .pt
    flags:                 # as the guided-diffusion repository's commands name them; or else
      image_size: 256      # `architecture`, the fields of `UNetConfig`, as `dstc train` writes it
      num_channels: 128
      ...
    sha256: ...            # optional; checked where given
    licence: CC BY 4.0     # optional; recorded with the run

`dstc train` leaves such a description beside what it trained: `--set prior=RUN/prior.json`. Those
of encoders have the `architecture` that timm's VisionTransformer or open_clip's CLIP takes, and
`mean` and `std` of the channels, for [0, 1]; that of a student has a field `student`
(`student.description`). A URL may stand for the path; what lies behind it is
copied to `places.local_copy` before networks are loaded.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet_config import UNetConfig
from dstc_engine.errors import WeightsError
from dstc_engine.weights import places

_ENDINGS = (".json", ".yaml", ".yml")
_FILE_ENDINGS = (".safetensors", ".pt")
# The last line, but for a student's own field: what a training run tells of itself, for people.
_FIELDS = frozenset(
    "file sha256 size flags architecture schedule mean std licence about "
    "student initial training steps bf16_steps seconds pictures metrics data device log".split()
)


def is_description(name: str) -> bool:
    """Whether a name of weights is the path or URL of a description."""
    return name.lower().endswith(_ENDINGS)


def description_path(name: str) -> Path:
    """Where a description lies on this machine."""
    return places.local_copy(name) if "://" in name else Path(name)


def file_of(path: Path, description: Mapping[str, Any]) -> str:
    """The file that a description names, relative to it."""
    if "file" in description:
        return str(description["file"])
    made = (path.with_suffix(ending) for ending in _FILE_ENDINGS)
    return next((p for p in made if p.is_file()), path.with_suffix(_FILE_ENDINGS[0])).name


def read_description(path: Path) -> dict[str, Any]:
    """The fields of a description, checked as far as that needs no network.

    Raises:
        WeightsError: it is missing, no mapping, or has a field that is unknown or of another kind.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"description {path}: cannot be read ({error})") from error
    description = _parse(path, text)
    if not isinstance(description, dict):
        raise WeightsError(
            f"description {path}: found {type(description).__name__}; expected fields"
        )
    for field in description:
        if field not in _FIELDS:
            near = difflib.get_close_matches(str(field), _FIELDS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise WeightsError(
                f"description {path}: unknown field {field!r}; {hint}expected one of "
                f"{', '.join(sorted(_FIELDS))}"
            )
    for field in ("flags", "architecture", "schedule"):
        if not isinstance(description.get(field, {}), dict):
            raise WeightsError(
                f"description {path}: {field} is {description[field]!r}; expected fields"
            )
    for field in ("file", "sha256"):
        if not isinstance(description.get(field, ""), str):
            raise WeightsError(
                f"description {path}: {field} is {description[field]!r}; expected text"
            )
    if ("flags" in description) == ("architecture" in description):
        raise WeightsError(
            f"description {path}: expected either flags (of an ADM checkpoint) or architecture"
        )
    if kind_of(description) in ("vit", "clip"):
        _check_encoder(path, description)
    return description


def kind_of(description: Mapping[str, Any]) -> str:
    """Kind, "prior", "vit", "clip" or "student": only their sizes bear these names."""
    sizes = description.get("architecture", {})
    if "vision_cfg" in sizes or "text_cfg" in sizes:
        return "clip"
    if "looks" in sizes:
        return "student"
    return "vit" if "img_size" in sizes else "prior"


def _check_encoder(path: Path, description: Mapping[str, Any]) -> None:
    def need(place: str, found: Any, fields: str) -> None:
        if not isinstance(found, dict):
            raise WeightsError(f"description {path}: {place} is {found!r}; expected fields")
        if missing := [field for field in fields.split() if field not in found]:
            raise WeightsError(f"description {path}: {place} lacks {', '.join(missing)}")

    sizes = description["architecture"]
    if kind_of(description) == "vit":
        need("architecture", sizes, "img_size patch_size embed_dim depth num_heads")
    else:
        need("architecture", sizes, "embed_dim vision_cfg text_cfg")
        need("vision_cfg", sizes["vision_cfg"], "image_size")
        need("text_cfg", sizes["text_cfg"], "context_length")
    for field in ("mean", "std"):
        channels = description.get(field)
        if not (
            isinstance(channels, list)
            and len(channels) == 3
            and all(isinstance(value, int | float) for value in channels)
        ):
            raise WeightsError(
                f"description {path}: {field} is {channels!r}; expected three numbers"
            )


def settings_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a description that decide images, besides the file it names."""
    decisive = ("flags", "architecture", "schedule", "mean", "std", "student")
    return {field: description[field] for field in decisive if field in description}


def _parse(path: Path, text: str) -> Any:
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise WeightsError(f"description {path}: not JSON ({error})") from error
    import yaml  # only where one is met

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WeightsError(f"description {path}: not YAML ({error})") from error


def unet_config_of(description: Mapping[str, Any], place: str) -> UNetConfig:
    """The shape of a described prior.

    Args:
        description: the description's fields. place: how errors name it.

    Raises:
        WeightsError: a setting is missing, unknown, or cannot be built.
    """
    try:
        if "flags" in description:
            return UNetConfig.from_flags(description["flags"])
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in description["architecture"].items()
        }
        return UNetConfig(**fields)
    except (WeightsError, TypeError, ValueError) as error:  # a field is unknown, missing, no number
        raise WeightsError(f"{place}: {error}") from error


def noise_schedule_of(description: Mapping[str, Any], place: str) -> NoiseSchedule:
    """Noise schedule of a described prior; linear over 1000 steps unless it says so.

    Raises:
        WeightsError: a setting is unknown.
    """
    try:
        if "flags" in description and "schedule" not in description:
            return NoiseSchedule.from_flags(description["flags"])
        return NoiseSchedule(**description.get("schedule", {}))
    except (WeightsError, TypeError) as error:
        raise WeightsError(f"{place}: {error}") from error
