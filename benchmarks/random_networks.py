"""A preset's networks with random values, at full size or shrunken, and rows to run through them.

Speed and memory do not depend on what weights hold; images made with these mean nothing. Needs
torch, timm and open_clip alone: no published file, no Ray, no job.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import open_clip
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.models import Models, build_models, vgg_layers
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from dstc_engine.weights import architectures
from dstc_engine.weights.load import IMAGENET_MEAN, IMAGENET_STD, build_dino
from dstc_engine.weights.registry import find

# Shrunken: images of 32 pixels for all networks, and of each kind of layer the least there can be
# (GroupNorm has 32 groups, an attention pool of CLIP one place).
_SMALL = 32

KINDS = ("text", "image", "both")


def kind_of(preset: Preset) -> str:
    """The rows that a preset is made for: "text" or "image", as its name ends; else "both"."""
    return next((kind for kind in KINDS if preset.name.endswith(kind)), "both")


def prepared(preset: Preset, kind: str, shrink: bool = False) -> Preset:
    """The preset for rows of one kind, without what makes their number of steps uneven.

    Rows without a prompt leave the CLIP models out, as the research script does: they would only
    take memory. Random networks drive chains out of range, so restarts are off.
    """
    fields: dict[str, Any] = {"max_restarts": 0}
    if kind == "image":
        fields["weight_clip"] = 0.0
    if shrink:
        fields |= {"image_size": _SMALL, "dino_size": _SMALL, "crops": 2}
    return dataclasses.replace(preset, **fields)


@torch.no_grad()
def random_models(
    preset: Preset, device: str = "cpu", precision: str = "fp32", shrink: bool = False
) -> Models:
    """The networks that the preset's losses look through, with the same values at each call.

    Args:
        shrink: a few layers and channels of each; the preset is one that `prepared` has shrunken.
    """
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        models = build_models(
            preset,
            {
                "prior": lambda name: _unet(name, shrink),
                "dino": lambda name: _dino(preset, shrink),
                "clips": lambda name: _clip(name, shrink),
                "arcface": lambda name: ArcFace(preset.identity_crop),
                "vgg": lambda name: Vgg(preset.vgg_size, vgg_layers(preset)),
            },
            noise_schedule=architectures.noise_schedule(find(preset.prior)),
            device=torch.device(device),
            precision=precision,
        )
        for network in (models.unet, models.dino, *models.clips):
            if network is not None and device != "meta":  # which holds shapes and no values
                _awaken(network)
    return models


def _awaken(network: nn.Module) -> None:
    # Parameters that start as zero: behind them nothing would have a gradient.
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.01)


def _unet(name: str, shrink: bool) -> UNet:
    config = architectures.unet_config(find(name))
    if shrink:
        config = dataclasses.replace(
            config, image_size=_SMALL, channels=_SMALL, head_channels=_SMALL
        )
    return UNet(config)


def _dino(preset: Preset, shrink: bool) -> nn.Module:
    if not shrink:
        return build_dino(find(preset.dino), preset.dino_size, preset.dino_layer)
    vit = VisionTransformer(
        img_size=_SMALL, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=0
    )
    return Dino(vit, _SMALL, preset.dino_layer, IMAGENET_MEAN, IMAGENET_STD)


def _clip(name: str, shrink: bool) -> Clip:
    weights = find(name)
    sizes = architectures.clip_sizes(weights)
    if shrink:
        sizes = _smaller(sizes)
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    model = open_clip.CLIP(
        sizes["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(**vision),
        text_cfg=open_clip.CLIPTextCfg(**text),
        quick_gelu=sizes["quick_gelu"],
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=text["context_length"])
    mean, std = architectures.clip_normalization(weights)
    return Clip(model, tokenizer, vision["image_size"], mean, std)


def _smaller(sizes: dict[str, Any]) -> dict[str, Any]:
    """A CLIP model of the same kind: a ResNet stays one, a ViT keeps its patch."""
    vision = dict(sizes["vision_cfg"], image_size=_SMALL)
    if isinstance(vision["layers"], int):
        vision |= {"layers": 2, "width": 64, "head_width": 32}
    else:
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    text = dict(sizes["text_cfg"], width=64, heads=2, layers=2)
    return dict(sizes, embed_dim=64, vision_cfg=vision, text_cfg=text)


def random_rows(kind: str, count: int, size: int, start: int = 0) -> list[TranslationRequest]:
    """Rows of one kind about coarse patterns of `size` pixels, each with images of its own.

    All have the same prompts: in a job, texts are embedded once and remembered.
    """
    rows = []
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
        content, style = np.repeat(np.repeat(coarse, size // 8, axis=1), size // 8, axis=2)
        rows.append(
            TranslationRequest(
                id=f"{kind}-{number}",
                content=content,
                seed=number,
                style=None if kind == "text" else style,
                prompt=None if kind == "image" else "a leopard",
                source_prompt=None if kind == "image" else "a lion",
            )
        )
    return rows
