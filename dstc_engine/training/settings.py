"""Settings that every training has, and how `--set KEY=VALUE` changes one given as text."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dstc_engine.errors import UserError
from dstc_engine.preset_fields import known, read_value


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained: what every training has; each adds its own fields.

    Attributes:
        steps, batch: length, and images per step over all workers. peak_rate: of AdamW.
        ema: decay of the averaged weights, which are what is shipped.
        seed: of the random weights, the order of the images and every other draw.
        bf16: run the network in bfloat16 (1.4 to 1.6 times as fast on an AVX512-BF16 core), except
            on CPUs that would emulate it: see `runs_in_bf16`.
    """

    steps: int
    batch: int
    peak_rate: float
    ema: float
    seed: int = 0
    bf16: bool = True


Settings = TypeVar("Settings")


def with_settings(how: Settings, texts: Mapping[str, str]) -> Settings:
    """A variant of a dataclass that says how something is trained, such as a `PriorTraining`.

    Raises:
        UserError: there is no such setting, or its text does not read as the setting's type.
    """
    kinds = typing.get_type_hints(type(how))
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in kinds:
            raise UserError(f"unknown training setting {key!r}; {known(key, kinds)}")
        try:
            values[key] = read_value(text, kinds[key])
        except ValueError as error:
            raise UserError(f"training setting {key!r}: {text!r} given, expected {error}") from None
    return dataclasses.replace(how, **values)  # type: ignore[type-var]
