"""Kinds of preset fields: value, range and meaning in one place, and values read from text.

Each function below makes a field of `Preset` from its default, its meaning and its range. `Preset`
refuses what does not fit, `dstc presets NAME` and docs/presets.md show the rest.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from dstc_engine.diffusion.schedule import RESPACING_FORM, read_respacing
from dstc_engine.errors import PresetError
from dstc_engine.losses import LOSSES

_T = TypeVar("_T")
_ABOUT = "about"


@dataclass(frozen=True)
class About:
    """What is known of a preset field besides its type and its default.

    Attributes:
        meaning: in a few words.
        fits: whether a value of the field's own type is one that works.
        expected: what `fits` asks for, as an error says it.
    """

    meaning: str
    fits: Callable[[Any], bool]
    expected: str


def about_fields(record: type) -> dict[str, About]:
    """The fields of a dataclass that were made here, in their order."""
    made = dataclasses.fields(record)
    return {field.name: field.metadata[_ABOUT] for field in made if _ABOUT in field.metadata}


def described(default: _T, meaning: str, fits: Callable[[_T], bool], expected: str) -> _T:
    """A field of a kind of its own. To the type checker it is its default, as to a reader."""
    about = About(meaning, fits, expected)
    return dataclasses.field(default=default, metadata={_ABOUT: about})


def whole(default: int, meaning: str, least: int) -> int:
    return described(default, meaning, lambda value: value >= least, f"{least} or more")


def number(default: float, meaning: str, least: float = -math.inf, most: float = math.inf) -> float:
    expected = "a finite number"
    if math.isfinite(least) and math.isfinite(most):
        expected += f", {least:g} to {most:g}"
    elif math.isfinite(least):
        expected += f", {least:g} or more"
    return described(default, meaning, lambda v: math.isfinite(v) and least <= v <= most, expected)


def weight(default: float, loss: str) -> float:
    """The weight of a loss, whose record has its meaning."""
    return number(default, LOSSES[loss].meaning, least=0)


def gate(meaning: str, least: float = 0.0) -> float:
    """A limit on a loss; `least`: of the loss, where a limit would flag every image."""
    return described(
        -1.0,
        f"flag images whose {meaning} ends above; -1: none",
        lambda v: math.isfinite(v) and (v == -1 or v > least),
        f"-1 for none, or a finite number above {least:g}",
    )


def either(default: str, meaning: str, *choices: str) -> str:
    return described(default, meaning, lambda value: value in choices, " or ".join(choices))


def switch(default: bool, meaning: str) -> bool:
    return described(default, meaning, lambda value: True, "true or false")


def network(default: str, meaning: str) -> str:
    return described(default, meaning, lambda name: bool(name.strip()), "the name of a network")


def networks(default: tuple[str, ...], meaning: str) -> tuple[str, ...]:
    return described(
        default,
        meaning,
        lambda names: bool(names) and all(names) and len(set(names)) == len(names),
        "at least one model, each once",
    )


def interval(
    default: tuple[float, float], meaning: str, most: float = math.inf
) -> tuple[float, float]:
    expected = "low,high with 0 < low <= high" + (f" <= {most:g}" if most < math.inf else "")
    return described(
        default,
        meaning,
        lambda v: 0 < v[0] <= v[1] <= most and math.isfinite(v[1]),
        expected,
    )


def respacing(default: str, meaning: str) -> str:
    return described(default, meaning, _is_respacing, RESPACING_FORM)


def _is_respacing(text: str) -> bool:
    try:
        read_respacing(text)
    except PresetError:
        return False
    return True


def crop_of_256(default: tuple[int, int, int, int], meaning: str) -> tuple[int, int, int, int]:
    expected = "0 <= top < bottom <= 256 and 0 <= left < right <= 256"
    return described(default, meaning, _is_crop_of_256, expected)


def _is_crop_of_256(crop: tuple[int, int, int, int]) -> bool:
    top, bottom, left, right = crop
    return 0 <= top < bottom <= 256 and 0 <= left < right <= 256


# Layers of VGG-19 that the vgg_* losses can read: the outputs of its ReLUs, by block and place.
VGG_LAYERS = tuple(
    f"relu{block}_{place}"
    for block, places in enumerate((2, 2, 4, 4, 4), start=1)
    for place in range(1, places + 1)
)


def layers(default: tuple[str, ...], meaning: str) -> tuple[str, ...]:
    return described(
        default,
        meaning,
        lambda v: bool(v) and set(v) <= set(VGG_LAYERS) and len(set(v)) == len(v),
        f"one or more of {', '.join(VGG_LAYERS)}, each once",
    )


def known(name: str, names: Iterable[str]) -> str:
    """Text for an error about an unknown name: the nearest one, and all there are."""
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


def as_text(value: object) -> str:
    """A value as `--set` would give it; `read_value` reads it back."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


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
