"""Loads a student strictly: what is not what it claims to be is refused before any row runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dstc_engine.errors import WeightsError
from dstc_engine.presets import Preset
from dstc_engine.student.description import StudentRecord, check_preset, read_record
from dstc_engine.student.encoders import StudentEncoders, load_encoders
from dstc_engine.student.names import KIND, description_of
from dstc_engine.student.network import StudentConfig, StudentNetwork
from dstc_engine.weights.formats import check_layout, read_tensors, shapes
from dstc_engine.weights.registry import find, verify


@dataclass(frozen=True, eq=False)
class Student:
    """A student that is ready to run.

    Attributes:
        network: frozen, on the encoders' device. record: its looks, gates and teacher.
        preset: of the run. encoders: of that preset.
    """

    network: StudentNetwork
    record: StudentRecord
    preset: Preset
    encoders: StudentEncoders


def load_student(
    student: str | Path, preset: Preset, encoders: StudentEncoders | None = None,
    device: str = "cpu",
) -> Student:  # fmt: skip
    """Loads a student, and the encoders that it is told looks and judged by.

    Args:
        student: its folder, or its description's path; a URL only once its copy is here
            (`weights.described`). preset: of the run. encoders: in place of the preset's own.
        device: "cpu" or "cuda"; the encoders' where they are given.

    Raises:
        WeightsError: it is missing, altered, unfinished, has numbers that are not finite, or was
            made for another size, preset or other encoders.
        PresetError: the preset has no loss that looks through the ViT.
    """
    name = description_of(student)
    place = f"student {name}"
    description, record = check_description(name, preset)
    network = load_network(verify(name), description, place)
    if encoders is None:
        encoders = load_encoders(preset, device, any(look.prompt for look in record.looks))
    _check_encoders(record, network.config, encoders, place)
    network.eval().requires_grad_(False).to(encoders.device)
    return Student(network, record, preset, encoders)


def check_description(name: str, preset: Preset) -> tuple[Mapping[str, Any], StudentRecord]:
    """What can be checked of a student without loading any network.

    Args:
        name: of `names.description_of`. preset: of the run.

    Returns:
        The fields of its description, and its record.

    Raises:
        WeightsError: the description is missing or no student's, its training has not ended, or it
            was made for another size or preset.
    """
    place = f"student {name}"
    weights = find(name, KIND)
    description = weights.description()
    config = StudentConfig.of(description["architecture"], place)
    record = read_record(description.get(KIND), place)
    if config.image_size != preset.image_size:
        raise WeightsError(
            f"{place}: it makes images of {config.image_size} pixels; the preset's image_size is "
            f"{preset.image_size}"
        )
    check_preset(record, preset, place)
    if weights.sha256 is None or not all(look.limits for look in record.looks):
        raise WeightsError(
            f"{place}: its training has not ended; the same `dstc distil` continues it"
        )
    return description, record


def load_network(path: Path, description: Mapping[str, Any], place: str) -> StudentNetwork:
    """The network of a student, on the CPU.

    Args:
        path: of its weights. description: with its `architecture`. place: how errors name it.

    Raises:
        WeightsError: the weights are of another layout, or hold numbers that are not finite.
    """
    network = StudentNetwork(StudentConfig.of(description["architecture"], place))
    state = read_tensors(path)
    check_layout(shapes(state), shapes(network.state_dict()), path)
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(
            f"{path}: {len(bad)} tensors hold numbers that are not finite, such as {bad[0]}; "
            "expected none: distil it anew"
        )
    network.load_state_dict(state)
    return network


def _check_encoders(
    record: StudentRecord, config: StudentConfig, encoders: StudentEncoders, place: str
) -> None:
    for network, sha256 in record.networks.items():
        found = encoders.sums.get(network)
        if found != sha256:
            raise WeightsError(
                f"{place}: it was distilled with weights {network!r} of sha256 {sha256}; found "
                f"{found or 'none'}"
            )
    features = 2 + sum(encoders.widths)
    if (config.features, config.looks) != (features, len(record.looks)):
        raise WeightsError(
            f"{place}: {config.looks} looks of {config.features} numbers; expected "
            f"{len(record.looks)} of {features}, as its encoders tell them"
        )
