"""What each field of a preset means, and which values it takes.

One line a field: `Preset` refuses what does not fit, `dstc presets NAME` shows the meaning.
"""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dstc_engine.diffusion.schedule import RESPACING_FORM, read_respacing
from dstc_engine.errors import PresetError


@dataclass(frozen=True)
class Field:
    """A field of `Preset`.

    Attributes:
        meaning: in a few words.
        fits: whether a value of the field's own type is one that works.
        expected: what `fits` asks for, as an error says it.
    """

    meaning: str
    fits: Callable[[Any], bool]
    expected: str


def _whole(meaning: str, least: int) -> Field:
    return Field(meaning, lambda value: value >= least, f"{least} or more")


def _number(meaning: str, least: float = -math.inf, most: float = math.inf) -> Field:
    expected = "a finite number"
    if math.isfinite(least) and math.isfinite(most):
        expected += f", {least:g} to {most:g}"
    elif math.isfinite(least):
        expected += f", {least:g} or more"
    return Field(meaning, lambda v: math.isfinite(v) and least <= v <= most, expected)


def _gate(meaning: str, least: float = 0.0) -> Field:
    """`least`: of the loss; a limit there would flag every picture."""
    return Field(
        f"flag pictures whose {meaning} ends above; -1: none",
        lambda v: math.isfinite(v) and (v == -1 or v > least),
        f"-1 for none, or a finite number above {least:g}",
    )


def _either(meaning: str, *choices: str) -> Field:
    return Field(meaning, lambda value: value in choices, " or ".join(choices))


def _switch(meaning: str) -> Field:
    return Field(meaning, lambda value: True, "true or false")


def _network(meaning: str) -> Field:
    return Field(meaning, lambda name: bool(name.strip()), "the name of a network")


def _interval(meaning: str, most: float = math.inf) -> Field:
    expected = "low,high with 0 < low <= high" + (f" <= {most:g}" if most < math.inf else "")
    return Field(meaning, lambda v: 0 < v[0] <= v[1] <= most and math.isfinite(v[1]), expected)


def _is_respacing(text: str) -> bool:
    try:
        read_respacing(text)
    except PresetError:
        return False
    return True


def _is_crop_of_256(crop: tuple[int, int, int, int]) -> bool:
    top, bottom, left, right = crop
    return 0 <= top < bottom <= 256 and 0 <= left < right <= 256


# Layers of VGG-19 that the vgg_* losses can read: the outputs of its ReLUs, by block and place.
VGG_LAYERS = tuple(
    f"relu{block}_{place}"
    for block, places in enumerate((2, 2, 4, 4, 4), start=1)
    for place in range(1, places + 1)
)


def _layers(meaning: str) -> Field:
    return Field(
        meaning,
        lambda v: bool(v) and set(v) <= set(VGG_LAYERS) and len(set(v)) == len(v),
        f"one or more of {', '.join(VGG_LAYERS)}, each once",
    )


FIELDS: dict[str, Field] = {
    # networks
    "prior": _network("the diffusion model"),
    "image_size": _whole("pixels of the side; must be the prior's", 1),
    "dino": _network("the ViT of the structure and class-token losses"),
    "dino_size": _whole("pixels of the shorter side that it sees; must be the ViT's", 1),
    "dino_layer": _whole("block that is read, from 0; -1 is the last", -1),
    "clips": Field(
        "CLIP models, all of which guide",
        lambda names: bool(names) and all(names) and len(set(names)) == len(names),
        "at least one model, each once",
    ),
    "arcface": _network("face network; loaded when weight_identity is above 0"),
    "vgg": _network("network of the vgg losses; loaded when one of their weights is above 0"),
    "vgg_size": _whole("pixels of the shorter side that it sees", 1),
    "vgg_content_layers": _layers("layers of the content loss, all weighing the same"),
    "vgg_gram_layers": _layers("layers of the Gram loss, all weighing the same"),
    "prior_class": _whole("class shown to a class-conditional prior; -1: random in each step", -1),
    # chain
    "respacing": Field("steps of the schedule", _is_respacing, RESPACING_FORM),
    "skip": _whole("noisiest steps left out; more keeps more of the content", 0),
    "sampler": _either("ddpm, or ddim with eta 0", "ddpm", "ddim"),
    "resample": _whole("guided steps at the first index", 1),
    "noise_mix": _switch("losses see a mix of x0 and x_t instead of x0"),
    "guidance_every": _whole("guided: every so many steps; the push then counts as often", 1),
    "guidance_lowest": _whole("no guidance below this index", 0),
    "guidance_highest": _whole("no guidance above this index; -1: no limit", -1),
    "guidance_space": _either(
        "xt, or x0: the gradient spares the way back through the prior", "xt", "x0"
    ),
    "range_restart": _switch("start again when the range loss is too high"),
    "range_restart_limit": _number("how high: the weighted range loss, below the first index", 0),
    "max_restarts": _whole("restarts of a row at most", 0),
    # losses
    "weight_structure": _number("keeps the self-similarity of the content", 0),
    "weight_contrast": _number("keeps each place nearest to its own place in the content", 0),
    "weight_divergence": _number("moves away from the previous step", 0),
    "divergence_gate": _whole("divergence counts above this index", -1),
    "weight_style_cls": _number("class token of the style picture", 0),
    "weight_style_pixels": _number("pixels of the style picture", 0),
    "weight_clip": _number("the prompt", 0),
    "weight_range": _number("keeps x0 within [-1, 1]", 0),
    "weight_identity": _number("keeps a face the same person's", 0),
    "weight_vgg_content": _number("keeps VGG features of the content", 0),
    "weight_vgg_gram": _number("Gram matrices of VGG features of the style picture", 0),
    "identity_crop": Field(
        "top, bottom, left, right of the face in a 256-px portrait",
        _is_crop_of_256,
        "0 <= top < bottom <= 256 and 0 <= left < right <= 256",
    ),
    "contrast_temperature": Field(
        "of the contrastive loss", lambda v: 0 < v < math.inf, "a finite number above 0"
    ),
    "regularize_content": _switch(
        "contrast counts by the factor after a CLIP loss below the threshold"
    ),
    "regularize_factor": _number("that factor", 0),
    "progressive_contrast": _switch(
        "contrast counts by the factor after a CLIP loss above the threshold"
    ),
    "progressive_factor": _number("that factor", 0),
    "contrast_clip_threshold": _number("that threshold, of both"),
    # clip
    "crops": _whole("crops shown to each CLIP model", 1),
    "crop_rotation": _number("degrees, either way", 0, 180),
    "crop_scale": _interval("share of the area", 1.0),
    "crop_ratio": _interval("width over height"),
    "crop_flip": _number("probability of a horizontal flip", 0, 1),
    "direction_target": _number("share of the prompt in the CLIP target"),
    "direction_source_text": _number("share of the source prompt, subtracted"),
    "direction_source_image": _number("share of the content picture"),
    # the finished picture
    "match_colours": _switch("carry the style picture's colours over to the finished picture"),
    "fit": _either("pictures not square: crop the centre, or pad and cut back", "crop", "pad"),
    # gates
    "gate_structure": _gate("structure loss"),
    "gate_range": _gate("range loss"),
    "gate_style_cls": _gate("style_cls loss"),
    "gate_clip": _gate("clip loss, minus a cosine,", least=-1.0),
}


def known(name: str, names: Iterable[str]) -> str:
    """For an error about a name that is not known: the nearest one, and all there are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"expected one of {', '.join(names)}"


def said(kind: object) -> str:
    """A field's type, as an error names it."""
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def is_of(value: object, kind: object) -> bool:
    """Whether a value is of a field's type; whole numbers are numbers too."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, tuple) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            return False
        return all(is_of(part, inner[0]) for part in value)
    # True is an int to Python, and no number to us.
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else typing.cast(type, kind))


def read_value(text: str, kind: object) -> object:
    """The value that a text names; raises ValueError with what was expected."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if inner[-1] is not Ellipsis and len(parts) != len(inner):
            raise ValueError(f"{len(inner)} comma-separated values")
        return tuple(read_value(part, inner[0]) for part in parts)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    try:
        return typing.cast(type, kind)(text)
    except ValueError:
        raise ValueError(said(kind)) from None
