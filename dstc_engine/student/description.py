"""What a student's description tells besides its sizes: looks, gates, teacher, preset, sums.

`dstc distil` leaves `student.safetensors` and, beside it, `student.json`: a description of weights
like any other (`weights.described`), with one more field, `student`, which this file reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dstc_engine.errors import WeightsError
from dstc_engine.presets import Preset
from dstc_engine.student.distances import DISTANCES

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class KnownLook:
    """A look that a student was trained on.

    Attributes:
        key: of `looks.Look`. style, prompt: for people; the style's URI.
        pairs: contents with a result that it was trained and validated on.
        limits: upper limits of a student's distances, by the names of `distances.DISTANCES`; empty
            until training ends.
    """

    key: str
    style: str | None
    prompt: str | None
    pairs: int
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudentRecord:
    """The field `student` of a description.

    Attributes:
        preset: of the pilot, every field. networks: sha256 of the encoders' weights, by name.
        pilot: the guided run: run_id, fingerprint, and what else is told of it.
        looks: in the order of the network's own.
    """

    preset: Mapping[str, Any]
    networks: Mapping[str, str]
    pilot: Mapping[str, Any]
    looks: tuple[KnownLook, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `read_record`."""
        return {"format": FORMAT, **asdict(self)}


def read_record(fields: object, place: str) -> StudentRecord:
    """The record in a description's field `student`.

    Args:
        fields: as JSON gives it. place: how errors name it.

    Raises:
        WeightsError: it is missing, of another format, or lacks a field.
    """
    if not isinstance(fields, Mapping):
        raise WeightsError(f"{place}: student is {fields!r:.80}; expected fields")
    if fields.get("format") != FORMAT:
        raise WeightsError(
            f"{place}: format is {fields.get('format')!r}; expected {FORMAT}: distil it with this "
            "version of dstc"
        )
    try:
        looks = tuple(KnownLook(**look) for look in fields["looks"])
        others = {name: value for name, value in fields.items() if name not in ("format", "looks")}
        record = StudentRecord(looks=looks, **others)
        limits = [limit for look in looks for limit in look.limits.items()]
        sound = all(name in DISTANCES and math.isfinite(limit) for name, limit in limits)
        if not sound:
            raise ValueError(f"limits {limits}; expected finite numbers of {', '.join(DISTANCES)}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{place}: field student cannot be read ({error})") from error
    return record


def preset_of(record: StudentRecord, place: str) -> Preset:
    """The preset that a student's teacher ran with.

    Raises:
        WeightsError: its fields are none of this version's.
    """
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in record.preset.items()
    }
    try:
        return Preset(**values)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{place}: not a preset of this version ({error})") from error


def check_preset(record: StudentRecord, preset: Preset, place: str) -> None:
    """Makes sure that a student's teacher ran with a preset; gates, which change no image, aside.

    Raises:
        WeightsError: a field differs; the first few are named.
    """
    ours, theirs = dataclasses.asdict(preset), dataclasses.asdict(preset_of(record, place))
    different = [
        f"{name} is {ours[name]!r}, the student's is {theirs[name]!r}"
        for name in ours
        if ours[name] != theirs[name] and name != "name" and not name.startswith("gate_")
    ]
    if different:
        more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
        raise WeightsError(
            f"{place}: it was distilled from a run of preset {record.preset.get('name')!r}, not "
            f"{preset.name!r}: {'; '.join(different[:5])}{more}. Give the pilot's preset and "
            "fields, or distil a student of this one"
        )
