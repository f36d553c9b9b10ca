"""The networks that the goldens were computed with, and the folder that holds both.

Needs no pytest: `benchmarks/gpu_check.py` runs the chains on a GPU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino


def goldens_folder() -> Path:
    return Path(os.environ.get("DSTC_GOLDENS") or Path(__file__).parent / "goldens").resolve()


def read_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((goldens_folder() / "config.json").read_text())
    return config


def load_unet(folder: Path, config: dict[str, Any]) -> UNet:
    """The prior, frozen."""
    network = UNet(UNetConfig.from_flags(config["config"]))
    network.load_state_dict(load_file(folder / "unet.safetensors"), strict=True)
    return network.eval().requires_grad_(False)


def load_dino(folder: Path, config: dict[str, Any]) -> Dino:
    """The ViT, frozen."""
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


def load_clip(folder: Path, config: dict[str, Any]) -> Clip:
    """The CLIP model, frozen."""
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
