"""Presets: everything that decides what a picture looks like, as one frozen record.

A preset is saved whole with each run. But for the range of the betas, no number of the method lives
anywhere else: a function that needs one takes it from here. Variants are made with `with_fields`,
which `--set KEY=VALUE` calls.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass

from dstc_engine.errors import PresetError

# Layers of VGG-19 that the vgg_* losses can read: the outputs of its ReLUs, by block and place.
VGG_LAYERS = tuple(
    f"relu{block}_{place}"
    for block, places in enumerate((2, 2, 4, 4, 4), start=1)
    for place in range(1, places + 1)
)
CLIP_ENSEMBLE = ("clip-rn50", "clip-rn50x4", "clip-vit-b-32", "clip-rn50x16", "clip-vit-b-16")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How rows are translated (defaults: the values of the official text-guided command).

    Networks (names of `weights.registry`; but for the prior, loaded when a loss that looks through
    one has a weight above 0):
        prior: the ADM diffusion model. dino: the ViT. clips: the CLIP models, all of which guide.
        arcface: the face network. vgg: the network of the vgg_* losses.
        prior_class: class shown to a class-conditional prior; -1 draws one at random in each step.
        dino_size: pixels of the shorter side that the ViT sees. dino_layer: block whose keys and
        class token are read, counted from 0; -1 is the last. vgg_size: pixels of the shorter side
        that VGG sees. vgg_content_layers, vgg_gram_layers: of `VGG_LAYERS`, all weighing the same.

    Chain (method section 2; steps are indices of the respaced schedule):
        respacing: "N", "a,b,c" or "ddimN". skip: S - skip - 1 is the first index. sampler: "ddpm"
        or "ddim". resample: guided steps at the first index, at least 1. noise_mix: losses see
        z = f x0 + (1 - f) x_t. range_restart, range_restart_limit, max_restarts: start again when
        the weighted range loss is above the limit, at most that often.

    Loss weights (method section 3): weight_*. divergence_gate: divergence counts above this index.
    identity_crop: top, bottom, left, right of the face, in pixels of a 256-px portrait.

    CLIP: crops per model, and how they are drawn; direction_*: the parts of the target.

    regularize_content: contrast counts `regularize_factor` times while the last CLIP loss was below
    contrast_clip_threshold. progressive_contrast: `progressive_factor` times while it was above.
    match_colours: carry the style picture's colour statistics over to the finished picture.
    fit: "crop" (centre crop) or "pad" (pad, and crop back at the end) for pictures not square.
    """

    name: str
    # networks
    prior: str = "adm-imagenet256"
    image_size: int = 256
    dino: str = "dino-vitb8"
    dino_size: int = 224
    dino_layer: int = -1
    clips: tuple[str, ...] = CLIP_ENSEMBLE
    arcface: str = "arcface-ir-se50"
    vgg: str = "vgg19"
    vgg_size: int = 224
    # Gatys et al. 2016, section 3: content at the second layer of block 4, style at the first of
    # each.
    vgg_content_layers: tuple[str, ...] = ("relu4_2",)
    vgg_gram_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    prior_class: int = -1
    # chain
    respacing: str = "100"
    skip: int = 40
    sampler: str = "ddpm"
    resample: int = 10
    noise_mix: bool = True
    range_restart: bool = False
    range_restart_limit: float = 0.01
    max_restarts: int = 3
    # losses
    weight_structure: float = 1000.0
    weight_contrast: float = 200.0
    weight_divergence: float = 100.0
    divergence_gate: int = 50
    weight_style_cls: float = 2000.0
    weight_style_pixels: float = 3000.0
    weight_clip: float = 2000.0
    weight_range: float = 200.0
    weight_identity: float = 0.0
    weight_vgg_content: float = 0.0
    weight_vgg_gram: float = 0.0
    identity_crop: tuple[int, int, int, int] = (35, 223, 32, 220)
    contrast_temperature: float = 0.07
    regularize_content: bool = False
    regularize_factor: float = 2.0
    progressive_contrast: bool = False
    progressive_factor: float = 0.5
    contrast_clip_threshold: float = -0.5
    # clip
    crops: int = 8
    crop_rotation: float = 10.0
    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (0.9, 1.1)
    crop_flip: float = 0.5
    direction_target: float = 1.0
    direction_source_text: float = 0.4
    direction_source_image: float = 0.2
    # the finished picture
    match_colours: bool = False
    fit: str = "crop"

    def __post_init__(self) -> None:
        def refuse(field: str, expected: str) -> None:
            raise PresetError(
                f"preset {self.name!r}: {field} is {getattr(self, field)!r}; expected {expected}"
            )

        for field in ("image_size", "dino_size", "vgg_size", "crops", "resample"):
            if getattr(self, field) < 1:
                refuse(field, "1 or more")
        for field in ("skip", "max_restarts"):
            if getattr(self, field) < 0:
                refuse(field, "0 or more")
        for field, choices in (("sampler", ("ddpm", "ddim")), ("fit", ("crop", "pad"))):
            if getattr(self, field) not in choices:
                refuse(field, " or ".join(choices))
        for field in dataclasses.asdict(self):
            if field.startswith("weight_") and not 0 <= getattr(self, field) < float("inf"):
                refuse(field, "a finite number, 0 or more")
        if self.contrast_temperature <= 0:
            refuse("contrast_temperature", "above 0")
        if not self.clips:
            refuse("clips", "at least one model")
        for field in ("vgg_content_layers", "vgg_gram_layers"):
            layers = getattr(self, field)
            if not layers or not set(layers) <= set(VGG_LAYERS) or len(set(layers)) < len(layers):
                refuse(field, f"one or more of {', '.join(VGG_LAYERS)}, each once")

    def guides(self, *losses: str) -> bool:
        """Whether any of these losses, by their names in `losses.LOSS_NAMES`, has a weight."""
        return any(getattr(self, f"weight_{loss}") > 0 for loss in losses)


IMAGENET256_TEXT = Preset(name="imagenet256-text")
IMAGENET256_IMAGE = Preset(name="imagenet256-image", respacing="200", skip=80, divergence_gate=100)
FFHQ256_TEXT = Preset(
    name="ffhq256-text",
    prior="adm-ffhq256",
    weight_identity=100.0,
    range_restart_limit=0.1,
)
# What the weights were tuned on, and how, stands in docs/presets.md.
TINY64 = Preset(
    name="tiny64",
    prior="emoji64-prior",
    image_size=64,
    dino="emoji64-vit",
    dino_size=64,
    clips=("emoji64-clip",),
    respacing="50",
    skip=28,
    resample=3,
    weight_structure=5000.0,
    weight_contrast=200.0,
    weight_divergence=4.0,
    divergence_gate=15,
    weight_style_cls=220.0,
    weight_style_pixels=10.0,
    weight_clip=1000.0,
    weight_range=12.0,
    crops=4,
)

PRESETS = {p.name: p for p in (TINY64, IMAGENET256_TEXT, IMAGENET256_IMAGE, FFHQ256_TEXT)}


def get_preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        PresetError: there is none; the message lists those there are.
    """
    if name not in PRESETS:
        raise PresetError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def with_fields(preset: Preset, texts: dict[str, str]) -> Preset:
    """A variant with fields given as text, as `--set KEY=VALUE` brings them.

    Booleans are true / false, tuples are comma-separated.

    Raises:
        PresetError: a field does not exist, or its text does not read as the field's type.
    """
    types_by_name = typing.get_type_hints(Preset)
    values: dict[str, object] = {}
    for key, text in texts.items():
        if key not in types_by_name or key == "name":
            known = ", ".join(sorted(set(types_by_name) - {"name"}))
            raise PresetError(f"unknown preset field {key!r}; expected one of {known}")
        values[key] = _parse(key, text, types_by_name[key])
    return dataclasses.replace(preset, **values)  # type: ignore[arg-type]


def _parse(key: str, text: str, kind: object) -> object:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        parts = [p.strip() for p in text.split(",") if p.strip()]
        if inner[-1] is not Ellipsis and len(parts) != len(inner):
            raise PresetError(f"{key}={text!r}: expected {len(inner)} comma-separated values")
        return tuple(_parse(key, part, inner[0]) for part in parts)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise PresetError(f"{key}={text!r}: expected true or false")
        return text.lower() == "true"
    assert isinstance(kind, type) and not isinstance(kind, types.GenericAlias)
    try:
        return kind(text)
    except ValueError:
        raise PresetError(f"{key}={text!r}: expected {kind.__name__}") from None
