"""The goldens folder, and the small networks it was computed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.models import Models
from tests.parity.golden_networks import (
    goldens_folder,
    load_clip,
    load_dino,
    load_unet,
    read_config,
)

FORWARD, GRADIENT = 1e-5, 1e-4


def relative_error(ours: Tensor, golden: Tensor) -> float:
    """Largest difference over the largest golden value."""
    assert ours.shape == golden.shape, f"{tuple(ours.shape)} against {tuple(golden.shape)}"
    difference = (ours.double() - golden.double()).abs().max()
    return float(difference / golden.double().abs().max().clamp(min=1e-12))


@pytest.fixture(scope="session")
def folder() -> Path:
    return goldens_folder()


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    return read_config()


@pytest.fixture(scope="session")
def goldens(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "goldens.safetensors")


@pytest.fixture(scope="session")
def unet(folder: Path, config: dict[str, Any]) -> UNet:
    return load_unet(folder, config)


@pytest.fixture(scope="session")
def dino(folder: Path, config: dict[str, Any]) -> Dino:
    return load_dino(folder, config)


@pytest.fixture(scope="session")
def clip(folder: Path, config: dict[str, Any]) -> Clip:
    return load_clip(folder, config)


@pytest.fixture(scope="session")
def models(unet: UNet, dino: Dino, clip: Clip) -> Models:
    return Models(unet=unet, dino=dino, clips=(clip,))


@pytest.fixture(scope="session")
def source(goldens: dict[str, Tensor]) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return goldens["image/source_uint8"].float()[None] / 255 * 2 - 1


@pytest.fixture(scope="session")
def style(goldens: dict[str, Tensor]) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return goldens["image/style_uint8"].float()[None] / 255 * 2 - 1


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def layouts(folder: Path) -> dict[str, Any]:
    """Tensor names and shapes of the published checkpoints; a folder without gets ours."""
    path = folder / "checkpoint_layouts.json"
    if not path.exists():
        path = Path(__file__).parent / "goldens" / "checkpoint_layouts.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found
