"""A student loads as it was saved, or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dstc_engine.errors import WeightsError
from dstc_engine.student.load import load_student
from dstc_engine.weights.registry import file_sha256, find
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import asking, encoders, write_student


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_student(tmp_path / "student", encoders(), [asking("both", 1), asking("text", 2)])


def _change(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "student.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_a_student_loads_by_its_folder_and_by_its_description(folder: Path) -> None:
    by_folder = load_student(folder, tiny.PRESET, encoders())
    by_path = load_student(folder / "student.json", tiny.PRESET, encoders())
    for student in (by_folder, by_path):
        assert [look.prompt for look in student.record.looks] == ["look 1", "look 2"]
        assert not student.network.training
        assert not any(p.requires_grad for p in student.network.parameters())
    assert torch.equal(by_folder.network.looks, by_path.network.looks)


def test_a_student_is_weights_like_any_other(folder: Path) -> None:
    weights = find(str(folder / "student.json"), "student")
    assert (weights.kind, weights.file) == ("student", "student.safetensors")
    assert weights.sha256 == file_sha256(folder / "student.safetensors")
    assert weights.settings["student"]["looks"][0]["limits"]  # gates decide which images are used


def test_gates_of_the_preset_do_not_matter(folder: Path) -> None:
    assert load_student(
        folder, dataclasses.replace(tiny.PRESET, gate_structure=0.5, name="other"), encoders()
    )


def test_another_preset_is_refused_by_its_fields(folder: Path) -> None:
    other = dataclasses.replace(tiny.PRESET, resample=3, weight_clip=1.0)
    with pytest.raises(WeightsError, match=r"resample is 3, the student's is 2; .*weight_clip"):
        load_student(folder, other, encoders())


def test_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="images of 16 pixels; the preset's image_size is 32"):
        load_student(folder, dataclasses.replace(tiny.PRESET, image_size=32), encoders())


def test_numbers_that_are_not_finite_are_refused(folder: Path) -> None:
    path = folder / "student.safetensors"
    state = load_file(path)
    state["enter.bias"][0] = torch.nan
    save_file(state, path)
    _change(folder, lambda fields: fields.update(sha256=file_sha256(path)))
    with pytest.raises(WeightsError, match=r"1 tensors hold numbers .* such as enter\.bias"):
        load_student(folder, tiny.PRESET, encoders())


def test_altered_and_missing_weights_are_refused(folder: Path) -> None:
    path = folder / "student.safetensors"
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(WeightsError, match="sha256 .*; expected"):
        load_student(folder, tiny.PRESET, encoders())
    path.unlink()
    with pytest.raises(WeightsError, match="no file .*student.safetensors"):
        load_student(folder, tiny.PRESET, encoders())
    with pytest.raises(WeightsError, match="cannot be read"):
        load_student(folder / "elsewhere", tiny.PRESET, encoders())


def test_other_encoders_are_refused(folder: Path) -> None:
    seen = encoders()
    seen.sums = {**seen.sums, "tiny": "2" * 64}
    with pytest.raises(WeightsError, match=f"'tiny' of sha256 {'1' * 64}; found {'2' * 64}"):
        load_student(folder, tiny.PRESET, seen)


def _drop_limits(fields: dict[str, Any]) -> None:
    fields["student"]["looks"][1]["limits"] = {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_limits, "training has not ended"),
        (lambda fields: fields.pop("sha256"), "training has not ended"),
        (lambda fields: fields.pop("student"), "student is None; expected fields"),
        (lambda fields: fields["student"].update(format=99), "format is 99; expected 2"),
        (lambda fields: fields["student"].pop("looks"), "field student cannot be read"),
        (lambda fields: fields["student"].update(reach=1), "field student cannot be read"),
        (lambda fields: fields["student"]["looks"].pop(), "2 looks of 50 numbers; expected 1 of"),
        (lambda fields: fields["architecture"].update(channels=16), "tensors do not fit"),
        (lambda fields: fields["architecture"].update(channels=9), "expected a multiple of 8"),
        (
            lambda fields: fields["student"]["looks"][0]["limits"].update(structure=float("nan")),
            "expected finite numbers",
        ),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    _change(folder, change)
    with pytest.raises(WeightsError, match=said):
        load_student(folder, tiny.PRESET, encoders())


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="kind prior; expected student"):
        (tmp_path / "prior.json").write_text(json.dumps({"architecture": {"image_size": 16}}))
        load_student(tmp_path / "prior.json", tiny.PRESET, encoders())
