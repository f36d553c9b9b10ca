"""The goldens folder, and the small networks it was computed with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.models import Models

FORWARD, GRADIENT, SAMPLE = 1e-5, 1e-4, 2e-3


def goldens_folder() -> Path:
    return Path(os.environ.get("DSTC_GOLDENS") or Path(__file__).parent / "goldens").resolve()


def read_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((goldens_folder() / "config.json").read_text())
    return config


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
    network = UNet(UNetConfig.from_flags(config["config"]))
    network.load_state_dict(load_file(folder / "unet.safetensors"), strict=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def dino(folder: Path, config: dict[str, Any]) -> Dino:
    sizes = config["config"]["vit"]
    state = load_file(folder / "vit.safetensors")
    vit = VisionTransformer(
        img_size=224,
        patch_size=sizes["patch"],
        embed_dim=sizes["dim"],
        num_heads=sizes["heads"],
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_classes=0,
    )
    vit.load_state_dict(state, strict=True)
    wrapped = Dino(vit, 224, -1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return wrapped.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def clip(folder: Path, config: dict[str, Any]) -> Clip:
    sizes = config["config"]["clip"]
    model = open_clip.CLIP(
        sizes["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(image_size=sizes["image_size"], **sizes["vision"]),
        text_cfg=open_clip.CLIPTextCfg(**sizes["text"]),
        quick_gelu=sizes["quick_gelu"],
    )
    model.load_state_dict(load_file(folder / "clip.safetensors"), strict=True)
    tokenizer = open_clip.SimpleTokenizer(context_length=sizes["text"]["context_length"])
    wrapped = Clip(
        model,
        tokenizer,
        sizes["image_size"],
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    return wrapped.eval().requires_grad_(False)


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
