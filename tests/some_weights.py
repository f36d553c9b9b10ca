"""Weights of a network too small to matter, as a publisher would hand them out."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest
import torch

from dstc_engine.presets import Preset
from dstc_engine.weights import convert
from dstc_engine.weights.registry import REGISTRY, Weights


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of 64 kB."""
    generator = torch.Generator().manual_seed(seed)
    return {"layer.weight": torch.randn(128, 128, generator=generator)}


def published(seed: int = 0) -> bytes:
    """That state dict as PyTorch saves it."""
    buffer = io.BytesIO()
    torch.save(state(seed), buffer)
    return buffer.getvalue()


def sum_of(data: bytes) -> str:
    """The sha256 of bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def register(monkeypatch: pytest.MonkeyPatch, name: str = "some", **fields: Any) -> Weights:
    """An entry of the registry, for this test alone."""
    values: dict[str, Any] = {
        "file": f"{name}-published.pt",
        "source": f"the page of {name}",
        "sha256": sum_of(published()),
        "licence": "MIT",
        "kind": "",  # any: presets of these tests take one entry for several networks
        "about": "a small network",
        "size": len(published()),
        "conditions": "",
    }
    made = Weights(name=name, **(values | fields))
    monkeypatch.setitem(REGISTRY, name, made)
    # The networks of real entries take hundreds of megabytes; the check itself stays.
    monkeypatch.setattr(convert, "layout", lambda weights: {"layer.weight": (128, 128)})
    return made


def preset_of(*names: str) -> Preset:
    """A preset that looks through these weights, the first of them the prior."""
    return Preset(name="tiny64", prior=names[0], dino="emoji64-vit", clips=names[1:] or names[:1])
