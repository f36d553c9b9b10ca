"""Presets: complete, frozen, and changed by text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.errors import PresetError
from dstc_engine.losses import LOSSES
from dstc_engine.preset_fields import VGG_LAYERS
from dstc_engine.presets import (
    FIELDS,
    IMAGENET256_TEXT,
    PRESETS,
    TINY64,
    TINY64_VARIANCE,
    Preset,
    get_preset,
    with_fields,
)
from dstc_engine.weights.registry import weights_of

LAYERS = f"one or more of {', '.join(VGG_LAYERS)}, each once"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_run(name: str) -> None:
    preset = get_preset(name)
    assert preset.name == name
    first = Schedule.respaced(preset.respacing).first_index(preset.skip)
    assert 0 < preset.divergence_gate < first, "divergence would count always or never"
    assert [w.name for w in weights_of(preset)][:2] == [preset.prior, preset.dino]


# What `optimization/arguments.py` of the official code falls back to, by our names.
SCRIPT = dict(
    respacing="100",
    skip=40,
    divergence_gate=50,
    crops=8,
    weight_clip=2000,
    weight_style_cls=2000,
    weight_style_pixels=3000,
    weight_range=200,
    weight_structure=1000,
    weight_divergence=100,
    weight_contrast=200,
    resample=10,
    sampler="ddpm",
    image_size=256,
    clips=("clip-rn50", "clip-rn50x4", "clip-vit-b-32", "clip-rn50x16", "clip-vit-b-16"),
    progressive_contrast=False,
    range_restart=False,
    match_colours=False,
    color_match_range="stretch",
    noise_mix=False,
    regularize_content=False,
    weight_identity=0,
    guidance_step="variance",
)
# The commands of its README, and what it writes as literals.
TEXT = dict(range_restart=True, noise_mix=True, regularize_content=True)
IMAGE = dict(
    range_restart=True,
    divergence_gate=100,
    respacing="200",
    skip=80,
    match_colours=True,
    noise_mix=True,
)
IMAGENET = dict(prior="adm-imagenet256", range_restart_limit=0.01)
LARGE = dict(prior="adm-imagenet512", range_restart_limit=0.01, image_size=512, prior_class=-1)
FACES = dict(prior="adm-ffhq256", range_restart_limit=0.1, weight_identity=100)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("imagenet256-text", SCRIPT | TEXT | IMAGENET),
        ("imagenet256-image", SCRIPT | IMAGE | IMAGENET),
        ("imagenet512-text", SCRIPT | TEXT | LARGE),
        ("imagenet512-image", SCRIPT | IMAGE | LARGE),
        ("ffhq256-text", SCRIPT | TEXT | FACES),
        ("ffhq256-image", SCRIPT | IMAGE | FACES),
    ],
)
def test_the_official_commands(name: str, values: dict[str, object]) -> None:
    preset = get_preset(name)
    assert {field: getattr(preset, field) for field in values} == values
    assert (preset.contrast_temperature, preset.regularize_factor) == (0.07, 2)
    assert (preset.progressive_factor, preset.contrast_clip_threshold) == (0.5, -0.5)
    directions = (preset.direction_target, preset.direction_source_text)
    assert (*directions, preset.direction_source_image) == (1, 0.4, 0.2)
    assert (preset.crop_rotation, preset.crop_scale) == (10, (0.8, 1.0))
    assert (preset.crop_ratio, preset.crop_flip) == ((0.9, 1.1), 0.5)
    assert (preset.dino, preset.dino_size, preset.identity_crop) == (
        "dino-vitb8",
        224,
        (35, 223, 32, 220),
    )


def test_the_defaults_are_those_of_the_official_script() -> None:
    plain = Preset(name="plain")
    assert {field: getattr(plain, field) for field in SCRIPT} == SCRIPT


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("tiny64", 11),
        ("tiny64-variance", 24),
        ("imagenet256-text", 69),
        ("imagenet256-text-fast", 30),
        ("imagenet256-image-fast", 60),
        ("imagenet512-image", 129),
        ("ffhq256-image", 129),
    ],
)
def test_guided_steps(name: str, steps: int) -> None:
    preset = get_preset(name)
    assert preset.guided_steps == steps
    first = Schedule.respaced(preset.respacing).first_index(preset.skip)
    assert preset.guided_steps == first + preset.resample


def test_tiny64_is_what_its_images_were_made_with() -> None:
    assert (TINY64.respacing, TINY64.skip, TINY64.resample, TINY64.crops) == ("25", 14, 1, 4)
    step = TINY64.guidance_step, TINY64.guidance_rate, TINY64.step_variance
    assert step == ("spherical", 0.2, "posterior")
    assert TINY64.noise_mix and not TINY64.range_restart and not TINY64.regularize_content
    weights = {f.name: getattr(TINY64, f.name) for f in dataclasses.fields(Preset)}
    assert {k.removeprefix("weight_"): v for k, v in weights.items() if "weight_" in k and v} == {
        "structure": 5000,
        "contrast": 200,
        "divergence": 4,
        "style_cls": 440,
        "style_pixels": 10,
        "clip": 1000,
        "range": 12,
    }


def test_tiny64_variance_takes_the_step_of_the_paper() -> None:
    paper_s = get_preset("tiny64-variance")
    chain = (paper_s.respacing, paper_s.skip, paper_s.resample, paper_s.divergence_gate)
    assert (*chain, paper_s.guidance_step) == ("50", 28, 3, 15, "variance")
    gates = [f.name for f in dataclasses.fields(Preset) if f.name.startswith("gate_")]
    assert {getattr(paper_s, gate) for gate in gates} == {-1.0}, "none were learned with its step"


@pytest.mark.parametrize("mode", ["text", "image"])
def test_a_fast_preset_is_another_in_fewer_steps(mode: str) -> None:
    preset, fast = (get_preset(f"imagenet256-{mode}{suffix}") for suffix in ("", "-fast"))
    assert (fast.guidance_step, fast.resample) == ("spherical", 1)
    for chain in ("respacing", "skip", "divergence_gate"):
        assert 2 * int(getattr(fast, chain)) == int(getattr(preset, chain))
    changed = {"name", "guidance_step", "resample", "respacing", "skip", "divergence_gate"}
    fields = {field.name for field in dataclasses.fields(Preset)} - changed
    assert all(getattr(fast, field) == getattr(preset, field) for field in fields)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("tiny65", "tiny64"), ("imagnet256-text", "imagenet256-text"), ("nothing", None)],
)
def test_an_unknown_preset_names_those_there_are(name: str, meant: str | None) -> None:
    with pytest.raises(PresetError) as caught:
        get_preset(name)
    message = str(caught.value)
    assert message.startswith(f"unknown preset '{name}'; ")
    assert message.endswith("expected one of " + ", ".join(PRESETS))
    assert ("did you mean" in message) == (meant is not None)
    assert meant is None or f"did you mean {meant}?" in message


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
        ("respacing", "20,30", "20,30"),
        ("fit", "pad", "pad"),
        ("crop_scale", "0.5, 0.9", (0.5, 0.9)),
        ("clips", "clip-rn50, clip-vit-b-32", ("clip-rn50", "clip-vit-b-32")),
        ("clips", "clip-rn50", ("clip-rn50",)),
        ("gate_clip", "-0.25", -0.25),
        ("gate_range", "-1", -1.0),
    ],
)
def test_fields_are_read_by_their_type(field: str, text: str, value: object) -> None:
    changed = with_fields(IMAGENET256_TEXT, {field: text})
    assert getattr(changed, field) == value and type(getattr(changed, field)) is type(value)
    assert dataclasses.replace(IMAGENET256_TEXT, **{field: value}) == changed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("prior", " ", "the name of a network"),
        ("image_size", "0", "1 or more"),
        ("dino_layer", "-2", "-1 or more"),
        ("clips", "", "at least one model, each once"),
        ("clips", "clip-rn50,clip-rn50", "at least one model, each once"),
        ("prior_class", "-2", "-1 or more"),
        ("respacing", "ten", "'N', 'a,b,c' or 'ddimN', N above 0"),
        ("respacing", "40", "0-39 for 40 steps"),
        ("skip", "4.5", "int"),
        ("skip", "", "int"),
        ("skip", "-1", "0 or more"),
        ("skip", "100", "0-99 for 100 steps"),
        ("sampler", "plms", "ddpm or ddim"),
        ("resample", "0", "1 or more"),
        ("noise_mix", "yes", "true or false"),
        ("guidance_step", "sphere", "variance or spherical"),
        ("guidance_rate", "1.1", "a finite number, 0 to 1"),
        ("guidance_rate", "nan", "a finite number, 0 to 1"),
        ("range_restart_limit", "-0.1", "a finite number, 0 or more"),
        ("max_restarts", "-1", "0 or more"),
        ("weight_clip", "much", "float"),
        ("weight_clip", "-2", "a finite number, 0 or more"),
        ("weight_clip", "nan", "a finite number, 0 or more"),
        ("weight_range", "inf", "a finite number, 0 or more"),
        ("divergence_gate", "-2", "-1 or more"),
        ("identity_crop", "35,223,32", "4 comma-separated values"),
        ("identity_crop", "35,223,32,x", "int"),
        ("identity_crop", "223,35,32,220", "0 <= top < bottom <= 256 and 0 <= left < right <= 256"),
        ("identity_crop", "35,223,32,257", "0 <= top < bottom <= 256 and 0 <= left < right <= 256"),
        ("contrast_temperature", "0", "a finite number above 0"),
        ("contrast_temperature", "inf", "a finite number above 0"),
        ("regularize_factor", "-1", "a finite number, 0 or more"),
        ("contrast_clip_threshold", "nan", "a finite number"),
        ("crops", "0", "1 or more"),
        ("crop_rotation", "181", "a finite number, 0 to 180"),
        ("crop_scale", "0.5", "2 comma-separated values"),
        ("crop_scale", "0.5,a", "float"),
        ("crop_scale", "0.9,0.5", "low,high with 0 < low <= high <= 1"),
        ("crop_scale", "0,1", "low,high with 0 < low <= high <= 1"),
        ("crop_scale", "0.5,1.1", "low,high with 0 < low <= high <= 1"),
        ("crop_ratio", "1,inf", "low,high with 0 < low <= high"),
        ("crop_ratio", "nan,1", "low,high with 0 < low <= high"),
        ("crop_flip", "1.5", "a finite number, 0 to 1"),
        ("direction_target", "inf", "a finite number"),
        ("fit", "squash", "crop or pad"),
        ("gate_structure", "0", "-1 for none, or a finite number above 0"),
        ("gate_range", "-0.5", "-1 for none, or a finite number above 0"),
        ("gate_style_cls", "inf", "-1 for none, or a finite number above 0"),
        ("gate_clip", "-1.5", "-1 for none, or a finite number above -1"),
        ("vgg_size", "0", "1 or more"),
        ("vgg_content_layers", "", LAYERS),
        ("vgg_gram_layers", "relu1_1,conv2_1", LAYERS),
        ("vgg_gram_layers", "relu1_1,relu1_3", LAYERS),
        ("vgg_gram_layers", "relu1_1,relu1_1", LAYERS),
    ],
)
def test_values_that_do_not_fit(field: str, text: str, expected: str) -> None:
    with pytest.raises(PresetError) as caught:
        with_fields(IMAGENET256_TEXT, {field: text})
    message = str(caught.value)
    named = "skip is 40" if (field, text) == ("respacing", "40") else f"{field} is "
    assert message.startswith(f"preset 'imagenet256-text': {named}")
    assert message.endswith(f"; expected {expected}")


def test_a_spherical_step_needs_noise() -> None:
    spherical = with_fields(TINY64, {"guidance_step": "spherical"})
    with pytest.raises(PresetError) as caught:
        with_fields(spherical, {"sampler": "ddim"})
    assert str(caught.value) == (
        "preset 'tiny64': guidance_step is 'spherical'; expected variance: sampler=ddim adds no "
        "noise whose length a step could have"
    )


def test_the_variance_of_a_step_needs_noise() -> None:
    with pytest.raises(PresetError) as caught:
        with_fields(TINY64_VARIANCE, {"sampler": "ddim", "step_variance": "posterior"})
    assert str(caught.value) == (
        "preset 'tiny64-variance': step_variance is 'posterior'; expected learned: sampler=ddim "
        "adds no noise that could have a variance"
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("skip", "40", "int"),
        ("skip", True, "int"),
        ("weight_clip", True, "float"),
        ("weight_clip", "2000", "float"),
        ("noise_mix", 1, "bool"),
        ("prior", None, "str"),
        ("clips", "clip-rn50", "tuple[str, ...]"),
        ("clips", ["clip-rn50"], "tuple[str, ...]"),
        ("clips", (1,), "tuple[str, ...]"),
        ("crop_scale", (0.5, 0.6, 0.7), "tuple[float, float]"),
    ],
)
def test_values_of_another_type(field: str, value: Any, expected: str) -> None:
    with pytest.raises(PresetError) as caught:
        dataclasses.replace(TINY64, **{field: value})
    assert str(caught.value) == f"preset 'tiny64': {field} is {value!r}; expected {expected}"


def test_whole_numbers_are_numbers_too() -> None:
    assert dataclasses.replace(TINY64, weight_clip=7, crop_scale=(1, 1)).weight_clip == 7


@pytest.mark.parametrize("field", ["weight_klip", "name", "__init__"])
def test_fields_that_cannot_be_set(field: str) -> None:
    with pytest.raises(PresetError, match=f"unknown preset field '{field}'.*skip.*weight_clip"):
        with_fields(IMAGENET256_TEXT, {field: "1"})


def test_a_loss_guides_when_it_has_a_weight() -> None:
    assert IMAGENET256_TEXT.guides("clip") and not IMAGENET256_TEXT.guides("identity")
    assert not IMAGENET256_TEXT.guides("vgg_content", "vgg_gram")
    varied = with_fields(IMAGENET256_TEXT, {"weight_vgg_gram": "2", "weight_clip": "0"})
    assert varied.guides("vgg_content", "vgg_gram") and not varied.guides("clip")


def test_a_field_that_is_nearly_right() -> None:
    with pytest.raises(PresetError, match="unknown preset field 'wieght_clip'; did you mean weigh"):
        with_fields(TINY64, {"wieght_clip": "1"})


def test_every_field_has_a_meaning_and_a_rule() -> None:
    fields = [field.name for field in dataclasses.fields(Preset)]
    assert ["name", *FIELDS] == fields
    assert all(field.meaning and field.expected for field in FIELDS.values())


def test_each_loss_has_a_weight_that_says_what_its_record_says() -> None:
    weights = {name: about for name, about in FIELDS.items() if name.startswith("weight_")}
    assert weights.keys() == {f"weight_{loss}" for loss in LOSSES}
    for loss in LOSSES.values():
        assert weights[f"weight_{loss.name}"].meaning == loss.meaning
