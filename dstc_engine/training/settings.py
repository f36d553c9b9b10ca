"""Settings of a training loop given as text, as `--set KEY=VALUE` brings them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from dstc_engine.errors import UserError
from dstc_engine.preset_fields import known, read_value

Training = TypeVar("Training")


def with_settings(how: Training, texts: Mapping[str, str]) -> Training:
    """A variant of a `PriorTraining`, `ViTTraining` or `CLIPTraining`.

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
