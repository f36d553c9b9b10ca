"""Translates images into other looks while every shape stays in place.

Diffusion-based image translation with disentangled style and content (Kwon & Ye, ICLR 2023),
batched over slots. Imports torch, never ray, never storage.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstc_engine.engine import Engine, translate
    from dstc_engine.errors import DstcError, UserError
    from dstc_engine.models import Models, load_models
    from dstc_engine.presets import PRESETS, Preset, get_preset, with_fields
    from dstc_engine.request import StepLosses, Translation, TranslationRequest

__all__ = [
    "PRESETS",
    "DstcError",
    "Engine",
    "Models",
    "Preset",
    "StepLosses",
    "Translation",
    "TranslationRequest",
    "UserError",
    "get_preset",
    "load_models",
    "translate",
    "with_fields",
]

_HOMES = {
    "engine": ("Engine", "translate"),
    "errors": ("DstcError", "UserError"),
    "models": ("Models", "load_models"),
    "presets": ("PRESETS", "Preset", "get_preset", "with_fields"),
    "request": ("StepLosses", "Translation", "TranslationRequest"),
}


def __getattr__(name: str) -> object:
    # Looked up when asked for: importing the errors or the presets alone, as the commands do for
    # their help, must not wait several seconds for torch, timm and open_clip.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
