"""Presets: everything that decides what a picture looks like, as one frozen record.

A preset is saved whole with each run. But for the noise schedule, which belongs to the prior, no
number of the method lives anywhere else: a function that needs one takes it from here. Variants are
made with `with_fields`, which `--set KEY=VALUE` calls.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass

from dstc_engine.diffusion.schedule import read_respacing
from dstc_engine.errors import PresetError
from dstc_engine.preset_fields import FIELDS, is_of, known, read_value, said

CLIP_ENSEMBLE = ("clip-rn50", "clip-rn50x4", "clip-vit-b-32", "clip-rn50x16", "clip-vit-b-16")


@functools.cache
def _kinds() -> dict[str, object]:
    return typing.get_type_hints(Preset)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How rows are translated. Defaults: those of the official script, all of its switches off.

    `preset_fields.FIELDS` has the values that each field takes.

    Networks (names of `weights.registry`; but for the prior, loaded when a loss that looks through
    one has a weight above 0):
        prior: the ADM diffusion model. dino: the ViT. clips: the CLIP models, all of which guide.
        arcface: the face network. vgg: the network of the vgg_* losses.
        prior_class: class shown to a class-conditional prior; -1 draws one at random in each step.
        dino_size: pixels of the shorter side that the ViT sees. dino_layer: block whose keys and
        class token are read, counted from 0; -1 is the last. vgg_size: pixels of the shorter side
        that VGG sees. vgg_content_layers, vgg_gram_layers: of VGG_LAYERS, all weighing the same.

    Chain (method section 2; steps are indices of the respaced schedule):
        respacing: "N", "a,b,c" or "ddimN". skip: S - skip - 1 is the first index. sampler: "ddpm"
        or "ddim". resample: guided steps at the first index, at least 1. noise_mix: losses see
        z = f x0 + (1 - f) x_t. guidance_*: leave guidance or a part of it out, for speed (Speed,
        below). range_restart, range_restart_limit, max_restarts: start again when
        the weighted range loss is above the limit, at most that often.

    Speed, at the price of other pictures (docs/performance.md): guidance_every: guided is every so
    many steps below the first index, and its push counts as often. guidance_lowest,
    guidance_highest: guided is from the one index to the other. guidance_space: "x0" takes the
    predicted noise as given, so that no gradient goes back through the prior; "xt" is the method.

    Loss weights (method section 3): weight_*. divergence_gate: divergence counts above this index.
    identity_crop: top, bottom, left, right of the face, in pixels of a 256-px portrait.

    CLIP: crops per model, and how they are drawn; direction_*: the parts of the target.

    regularize_content: contrast counts `regularize_factor` times while the last CLIP loss was below
    contrast_clip_threshold. progressive_contrast: `progressive_factor` times while it was above.
    match_colours: carry the style picture's colour statistics over to the finished picture.
    fit: "crop" (centre crop) or "pad" (pad, and crop back at the end) for pictures not square.

    Gates, which change no picture: gate_*, upper limits of a picture's unweighted losses at its
    last guided step; above one, its row is flagged. -1 is no gate. docs/failures.md: how they are
    learned.

    Raises:
        PresetError: a value is of another type, or out of its range; preset and field are named.
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
    noise_mix: bool = False
    guidance_every: int = 1
    guidance_lowest: int = 0
    guidance_highest: int = -1
    guidance_space: str = "xt"
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
    # gates
    gate_structure: float = -1.0
    gate_range: float = -1.0
    gate_style_cls: float = -1.0
    gate_clip: float = -1.0

    def __post_init__(self) -> None:
        for name, field in FIELDS.items():
            value, kind = getattr(self, name), _kinds()[name]
            if not is_of(value, kind):
                raise self._refusal(name, said(kind))
            if not field.fits(value):
                raise self._refusal(name, field.expected)
        steps = self._respaced_steps
        if self.skip >= steps:
            raise self._refusal("skip", f"0-{steps - 1} for {steps} steps")
        if self.guided_steps == 0:
            limits = f"0-{self.first_index}, and no higher than guidance_highest"
            raise self._refusal("guidance_lowest", f"{limits}: some step must be guided")

    def guides(self, *losses: str) -> bool:
        """Whether any of these losses, by their names in `losses.LOSS_NAMES`, has a weight."""
        return any(getattr(self, f"weight_{loss}") > 0 for loss in losses)

    def _refusal(self, field: str, expected: str, found: object = None) -> PresetError:
        value = getattr(self, field) if found is None else found
        return PresetError(f"preset {self.name!r}: {field} is {value!r}; expected {expected}")

    @property
    def _respaced_steps(self) -> int:
        return sum(read_respacing(self.respacing)[1])

    @property
    def first_index(self) -> int:
        """Where a chain starts: S - skip - 1."""
        return self._respaced_steps - self.skip - 1

    @property
    def steps(self) -> int:
        """Steps of a row that never restarts: S - skip - 1 + resample."""
        return self.first_index + self.resample

    @property
    def guides_every_step(self) -> bool:
        """Whether no field leaves guidance out of a step."""
        return all(map(self.guides_at, range(self.first_index + 1)))

    @property
    def guided_steps(self) -> int:
        """The steps among `steps` that are guided."""
        repeats = (self.resample - 1) * self.guides_at(self.first_index)
        return sum(map(self.guides_at, range(self.first_index + 1))) + repeats

    def guides_at(self, index: int) -> bool:
        """Whether a row is guided at an index, 0 to first_index."""
        highest = self.first_index if self.guidance_highest < 0 else self.guidance_highest
        turn = (self.first_index - index) % self.guidance_every == 0
        return turn and self.guidance_lowest <= index <= highest


# The values of the official README's commands. Both of them have --use_range_restart and
# --use_noise_aug_all; text adds --regularize_content, pictures --use_colormatch.
IMAGENET256_TEXT = Preset(
    name="imagenet256-text",
    noise_mix=True,
    range_restart=True,
    regularize_content=True,
)
IMAGENET256_IMAGE = Preset(
    name="imagenet256-image",
    respacing="200",
    skip=80,
    divergence_gate=100,
    noise_mix=True,
    range_restart=True,
    match_colours=True,
)
# --model_output_size 512: the same numbers with another prior, which is class-conditional.
IMAGENET512_TEXT, IMAGENET512_IMAGE = (
    dataclasses.replace(
        preset,
        name=preset.name.replace("256", "512"),
        prior="adm-imagenet512",
        image_size=512,
    )
    for preset in (IMAGENET256_TEXT, IMAGENET256_IMAGE)
)
# --use_ffhq: its own prior, the identity loss in both modes, and a restart limit ten times as high.
FFHQ256_TEXT, FFHQ256_IMAGE = (
    dataclasses.replace(
        preset,
        name=preset.name.replace("imagenet", "ffhq"),
        prior="adm-ffhq256",
        weight_identity=100.0,
        range_restart_limit=0.1,
    )
    for preset in (IMAGENET256_TEXT, IMAGENET256_IMAGE)
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
    noise_mix=True,
    weight_structure=5000.0,
    weight_contrast=200.0,
    weight_divergence=4.0,
    divergence_gate=15,
    weight_style_cls=220.0,
    weight_style_pixels=10.0,
    weight_clip=1000.0,
    weight_range=12.0,
    crops=4,
    # Learned on the val split by tiny64/quality/gates.py, to be learned anew when a weight changes.
    gate_structure=0.0218,
    gate_range=0.0082,
    gate_style_cls=0.765,
    gate_clip=-0.449,
)

PRESETS = {
    preset.name: preset
    for preset in (
        TINY64,
        IMAGENET256_TEXT,
        IMAGENET256_IMAGE,
        IMAGENET512_TEXT,
        IMAGENET512_IMAGE,
        FFHQ256_TEXT,
        FFHQ256_IMAGE,
    )
}


def get_preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        PresetError: there is none; the message lists those there are.
    """
    if name not in PRESETS:
        raise PresetError(f"unknown preset {name!r}; {known(name, PRESETS)}")
    return PRESETS[name]


def with_fields(preset: Preset, texts: dict[str, str]) -> Preset:
    """A variant with fields given as text, as `--set KEY=VALUE` brings them.

    Booleans are true / false, tuples are comma-separated.

    Raises:
        PresetError: a field does not exist, its text does not read as the field's type, or the
            value is out of its range.
    """
    values: dict[str, object] = {}
    for key, text in texts.items():
        if key not in FIELDS:
            raise PresetError(f"unknown preset field {key!r}; {known(key, FIELDS)}")
        try:
            values[key] = read_value(text, _kinds()[key])
        except ValueError as error:
            raise preset._refusal(key, str(error), found=text) from None
    return dataclasses.replace(preset, **values)  # type: ignore[arg-type]
