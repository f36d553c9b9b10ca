"""Presets: everything that decides what an image looks like, as one frozen record.

A preset is saved whole with each run. But for the noise schedule, which belongs to the prior, no
number of the method lives anywhere else: a function that needs one takes it from here. Variants are
made with `with_fields`, which `--set KEY=VALUE` calls.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from dataclasses import dataclass

from dstc_engine import preset_fields as kind
from dstc_engine.diffusion.schedule import read_respacing
from dstc_engine.errors import PresetError

CLIP_ENSEMBLE = ("clip-rn50", "clip-rn50x4", "clip-vit-b-32", "clip-rn50x16", "clip-vit-b-16")


@functools.cache
def _types() -> dict[str, object]:
    return typing.get_type_hints(Preset)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How rows are translated.

    Each field has its default, its meaning and its range below, and nowhere else. The defaults are
    those of the official script, all of its switches off.

        >>> dataclasses.replace(IMAGENET256_TEXT, name="mine", skip=30).guided_steps
        79

    Raises:
        PresetError: a value is of another type, or out of its range; preset and field are named.
    """

    name: str
    # Networks, by their names in `weights.registry`. But for the prior, one is loaded when a loss
    # that looks through it has a weight above 0 (`networks.networks_of`).
    prior: str = kind.network("adm-imagenet256", "the diffusion model")
    image_size: int = kind.whole(256, "pixels of the side; must be the prior's", 1)
    dino: str = kind.network("dino-vitb8", "the ViT of the structure and class-token losses")
    dino_size: int = kind.whole(
        224, "pixels of the shorter side that it sees; must be the ViT's", 1
    )
    dino_layer: int = kind.whole(-1, "block that is read, from 0; -1 is the last", -1)
    clips: tuple[str, ...] = kind.networks(CLIP_ENSEMBLE, "CLIP models, all of which guide")
    arcface: str = kind.network(
        "arcface-ir-se50", "face network; loaded when weight_identity is above 0"
    )
    vgg: str = kind.network(
        "vgg19", "network of the vgg losses; loaded when one of their weights is above 0"
    )
    vgg_size: int = kind.whole(224, "pixels of the shorter side that it sees", 1)
    # Gatys et al. 2016, section 3: content at the second layer of block 4, style at the first of
    # each.
    vgg_content_layers: tuple[str, ...] = kind.layers(
        ("relu4_2",), "layers of the content loss, all weighing the same"
    )
    vgg_gram_layers: tuple[str, ...] = kind.layers(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
        "layers of the Gram loss, all weighing the same",
    )
    prior_class: int = kind.whole(
        -1, "class shown to a class-conditional prior; -1: random in each step", -1
    )
    # Chain (method section 2). Steps are indices of the respaced schedule of S steps; S - skip - 1
    # is the first.
    respacing: str = kind.respacing("100", "steps of the schedule")
    skip: int = kind.whole(40, "noisiest steps left out; more keeps more of the content", 0)
    sampler: str = kind.either("ddpm", "ddpm, or ddim with eta 0", "ddpm", "ddim")
    resample: int = kind.whole(10, "guided steps at the first index", 1)
    # z = f x0 + (1 - f) x_t
    noise_mix: bool = kind.switch(False, "losses see a mix of x0 and x_t instead of x0")
    # Yang et al. 2024: "variance" is the paper's step, whose length follows the weights.
    guidance_step: str = kind.either(
        "variance",
        "variance, or spherical: as long as the noise, the push gives the direction alone",
        "variance",
        "spherical",
    )
    guidance_rate: float = kind.number(
        0.2, "spherical: how far from the noise's direction to the push's", 0, 1
    )
    # Nichol & Dhariwal 2021, section 3.1: which variance it is counts where steps are few.
    step_variance: str = kind.either(
        "learned",
        "of a step's noise: learned by the prior, or posterior: the least, right where x0 is sure",
        "learned",
        "posterior",
    )
    # Guidance, or a part of it, left out: speed at the price of other images (docs/performance.md).
    # "xt" is the method.
    guidance_every: int = kind.whole(
        1, "guided: every so many steps; the push of a variance step then counts as often", 1
    )
    guidance_lowest: int = kind.whole(0, "no guidance below this index", 0)
    guidance_highest: int = kind.whole(-1, "no guidance above this index; -1: no limit", -1)
    guidance_space: str = kind.either(
        "xt", "xt, or x0: the gradient spares the way back through the prior", "xt", "x0"
    )
    range_restart: bool = kind.switch(False, "start again when the range loss is too high")
    range_restart_limit: float = kind.number(
        0.01, "how high: the weighted range loss, below the first index", 0
    )
    max_restarts: int = kind.whole(3, "restarts of a row at most", 0)
    # Losses (method section 3), which `losses.LOSSES` describes.
    weight_structure: float = kind.weight(1000.0, "structure")
    weight_contrast: float = kind.weight(200.0, "contrast")
    weight_divergence: float = kind.weight(100.0, "divergence")
    divergence_gate: int = kind.whole(50, "divergence counts above this index", -1)
    weight_style_cls: float = kind.weight(2000.0, "style_cls")
    weight_style_pixels: float = kind.weight(3000.0, "style_pixels")
    weight_clip: float = kind.weight(2000.0, "clip")
    weight_range: float = kind.weight(200.0, "range")
    weight_identity: float = kind.weight(0.0, "identity")
    weight_vgg_content: float = kind.weight(0.0, "vgg_content")
    weight_vgg_gram: float = kind.weight(0.0, "vgg_gram")
    identity_crop: tuple[int, int, int, int] = kind.crop_of_256(
        (35, 223, 32, 220), "top, bottom, left, right of the face in a 256-px portrait"
    )
    contrast_temperature: float = kind.described(
        0.07, "of the contrastive loss", lambda v: 0 < v < math.inf, "a finite number above 0"
    )
    regularize_content: bool = kind.switch(
        False, "contrast counts by the factor after a CLIP loss below the threshold"
    )
    regularize_factor: float = kind.number(2.0, "that factor", 0)
    progressive_contrast: bool = kind.switch(
        False, "contrast counts by the factor after a CLIP loss above the threshold"
    )
    progressive_factor: float = kind.number(0.5, "that factor", 0)
    contrast_clip_threshold: float = kind.number(-0.5, "that threshold, of both")
    # CLIP: how crops are drawn, and the parts of the target.
    crops: int = kind.whole(8, "crops shown to each CLIP model", 1)
    crop_rotation: float = kind.number(10.0, "degrees, either way", 0, 180)
    crop_scale: tuple[float, float] = kind.interval((0.8, 1.0), "share of the area", 1.0)
    crop_ratio: tuple[float, float] = kind.interval((0.9, 1.1), "width over height")
    crop_flip: float = kind.number(0.5, "probability of a horizontal flip", 0, 1)
    direction_target: float = kind.number(1.0, "share of the prompt in the CLIP target")
    direction_source_text: float = kind.number(0.4, "share of the source prompt, subtracted")
    direction_source_image: float = kind.number(0.2, "share of the content image")
    # The finished image.
    match_colours: bool = kind.switch(
        False, "carry the style image's colours over to the finished image"
    )
    color_match_range: str = kind.either(
        "stretch",
        "levels after that: stretch their range to 0-255, or clip those outside of it",
        "stretch",
        "clip",
    )
    fit: str = kind.either(
        "crop", "images not square: crop the centre, or pad and cut back", "crop", "pad"
    )
    # Upper limits of an image's unweighted losses at its last guided step. They change no image;
    # docs/failures.md says how they are learned.
    gate_structure: float = kind.gate("structure loss")
    gate_range: float = kind.gate("range loss")
    gate_style_cls: float = kind.gate("style_cls loss")
    gate_clip: float = kind.gate("clip loss, minus a cosine,", least=-1.0)

    def __post_init__(self) -> None:
        for name, about in FIELDS.items():
            value, wanted = getattr(self, name), _types()[name]
            if not kind.is_of(value, wanted):
                raise self._refusal(name, kind.said(wanted))
            if not about.fits(value):
                raise self._refusal(name, about.expected)
        steps = self._respaced_steps
        if self.skip >= steps:
            raise self._refusal("skip", f"0-{steps - 1} for {steps} steps")
        if self.guided_steps == 0:
            limits = f"0-{self.first_index}, and no higher than guidance_highest"
            raise self._refusal("guidance_lowest", f"{limits}: some step must be guided")
        if self.guidance_step == "spherical" and self.sampler != "ddpm":
            why = f"sampler={self.sampler} adds no noise whose length a step could have"
            raise self._refusal("guidance_step", f"variance: {why}")
        if self.step_variance == "posterior" and self.sampler != "ddpm":
            why = f"sampler={self.sampler} adds no noise that could have a variance"
            raise self._refusal("step_variance", f"learned: {why}")

    def weight_of(self, loss: str) -> float:
        """The weight of a loss, by its name in `losses.LOSSES`."""
        value: float = getattr(self, f"weight_{loss}")
        return value

    def guides(self, *losses: str) -> bool:
        """Whether any of these losses has a weight."""
        return any(self.weight_of(loss) > 0 for loss in losses)

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


FIELDS = kind.about_fields(Preset)

# The values of the official README's commands. Both of them have --use_range_restart and
# --use_noise_aug_all; text adds --regularize_content, images --use_colormatch.
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
# With the spherical step half as many steps do, and no repeats; where a chain starts (t = 591, 595)
# and divergence ends stays. Taken over from what drawings gained: no photograph has been tried.
IMAGENET256_TEXT_FAST, IMAGENET256_IMAGE_FAST = (
    dataclasses.replace(
        preset,
        name=f"{preset.name}-fast",
        guidance_step="spherical",
        guidance_rate=0.2,
        respacing=str(int(preset.respacing) // 2),
        skip=preset.skip // 2,
        divergence_gate=preset.divergence_gate // 2,
        resample=1,
    )
    for preset in (IMAGENET256_TEXT, IMAGENET256_IMAGE)
)
# What the weights were tuned on, and how, stands in docs/presets.md.
TINY64_VARIANCE = Preset(
    name="tiny64-variance",
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
    weight_style_cls=440.0,
    weight_style_pixels=10.0,
    weight_clip=1000.0,
    weight_range=12.0,
    crops=4,
    color_match_range="clip",
)
# The spherical step needs fewer steps, and no repeats (docs/evaluation.md). Gates were learned on
# the val split by tiny64/quality/gates.py and hold for these networks, steps and weights alone;
# the range loss told no lost shapes.
TINY64 = dataclasses.replace(
    TINY64_VARIANCE,
    name="tiny64",
    guidance_step="spherical",
    guidance_rate=0.2,
    respacing="25",
    skip=14,
    resample=1,
    step_variance="posterior",
    divergence_gate=7,
    gate_structure=0.012,
    gate_style_cls=0.274,
    gate_clip=-0.511,
)

PRESETS = {
    preset.name: preset
    for preset in (
        TINY64,
        TINY64_VARIANCE,
        IMAGENET256_TEXT,
        IMAGENET256_IMAGE,
        IMAGENET256_TEXT_FAST,
        IMAGENET256_IMAGE_FAST,
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
        raise PresetError(f"unknown preset {name!r}; {kind.known(name, PRESETS)}")
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
            raise PresetError(f"unknown preset field {key!r}; {kind.known(key, FIELDS)}")
        try:
            values[key] = kind.read_value(text, _types()[key])
        except ValueError as error:
            raise preset._refusal(key, str(error), found=text) from None
    return dataclasses.replace(preset, **values)  # type: ignore[arg-type]
