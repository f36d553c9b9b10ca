"""Presets: complete, frozen, and changed by text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dstc_engine.errors import PresetError
from dstc_engine.presets import IMAGENET256_TEXT, PRESETS, TINY64, Preset, get_preset, with_fields
from dstc_engine.schedule import Schedule
from dstc_engine.weights.registry import weights_of


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_run(name: str) -> None:
    preset = get_preset(name)
    assert preset.name == name
    first = Schedule.respaced(preset.respacing).first_index(preset.skip)
    assert 0 < preset.divergence_gate < first, "divergence would count always or never"
    assert [w.name for w in weights_of(preset)][:2] == [preset.prior, preset.dino]


def test_the_official_numbers() -> None:
    text, of_image = get_preset("imagenet256-text"), get_preset("imagenet256-image")
    assert (text.respacing, text.skip, text.divergence_gate) == ("100", 40, 50)
    assert (of_image.respacing, of_image.skip, of_image.divergence_gate) == ("200", 80, 100)
    assert (text.resample, text.crops, text.contrast_temperature) == (10, 8, 0.07)
    assert get_preset("ffhq256-text").weight_identity == 100
    assert get_preset("ffhq256-text").range_restart_limit == 0.1


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(PresetError, match="unknown preset 'tiny65'.*tiny64.*ffhq256-text"):
        get_preset("tiny65")


def test_presets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY64.skip = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("skip", "12", 12),
        ("weight_clip", "1e3", 1000.0),
        ("weight_clip", "7", 7.0),
        ("noise_mix", "false", False),
        ("range_restart", "True", True),
        ("respacing", "10,20", "10,20"),
        ("fit", "pad", "pad"),
        ("crop_scale", "0.5, 0.9", (0.5, 0.9)),
        ("clips", "clip-rn50, clip-vit-b-32", ("clip-rn50", "clip-vit-b-32")),
        ("clips", "clip-rn50", ("clip-rn50",)),
    ],
)
def test_fields_are_read_by_their_type(field: str, text: str, value: object) -> None:
    changed = with_fields(IMAGENET256_TEXT, {field: text})
    assert getattr(changed, field) == value and type(getattr(changed, field)) is type(value)
    assert dataclasses.replace(IMAGENET256_TEXT, **{field: value}) == changed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("skip", "4.5", "expected int"),
        ("skip", "", "expected int"),
        ("skip", "-1", "skip is -1; expected 0 or more"),
        ("weight_clip", "much", "expected float"),
        ("weight_clip", "-2", "weight_clip is -2.0; expected a finite number, 0 or more"),
        ("weight_clip", "nan", "expected a finite number"),
        ("weight_range", "inf", "expected a finite number"),
        ("noise_mix", "yes", "expected true or false"),
        ("sampler", "plms", "sampler is 'plms'; expected ddpm or ddim"),
        ("fit", "squash", "expected crop or pad"),
        ("crop_scale", "0.5", "expected 2 comma-separated values"),
        ("crop_scale", "0.5,a", "expected float"),
        ("clips", "", "clips is (); expected at least one model"),
        ("resample", "0", "resample is 0; expected 1 or more"),
        ("vgg_size", "0", "vgg_size is 0; expected 1 or more"),
        ("vgg_content_layers", "", "vgg_content_layers is (); expected one or more of relu1_1, "),
        ("vgg_gram_layers", "relu1_1,conv2_1", "expected one or more of relu1_1, "),
        ("vgg_gram_layers", "relu1_1,relu1_3", "relu5_4, each once"),
        ("vgg_gram_layers", "relu1_1,relu1_1", "relu5_4, each once"),
        ("contrast_temperature", "0", "expected above 0"),
    ],
)
def test_values_that_do_not_fit(field: str, text: str, expected: str) -> None:
    with pytest.raises(PresetError) as caught:
        with_fields(IMAGENET256_TEXT, {field: text})
    assert expected in str(caught.value) and field in str(caught.value)


@pytest.mark.parametrize("field", ["weight_klip", "name", "__init__"])
def test_fields_that_cannot_be_set(field: str) -> None:
    with pytest.raises(PresetError, match=f"unknown preset field '{field}'.*skip.*weight_clip"):
        with_fields(IMAGENET256_TEXT, {field: "1"})


def test_a_loss_guides_when_it_has_a_weight() -> None:
    assert IMAGENET256_TEXT.guides("clip") and not IMAGENET256_TEXT.guides("identity")
    assert not IMAGENET256_TEXT.guides("vgg_content", "vgg_gram")
    varied = with_fields(IMAGENET256_TEXT, {"weight_vgg_gram": "2", "weight_clip": "0"})
    assert varied.guides("vgg_content", "vgg_gram") and not varied.guides("clip")


def test_every_field_is_in_the_manual() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "run-a-job.md").read_text()
    fields = {field.name for field in dataclasses.fields(Preset)} - {"name"}
    assert {field for field in fields if f"| `{field}` |" not in manual} == set()
