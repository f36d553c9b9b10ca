"""Loads networks strictly: a missing or foreign tensor is named and not ignored.

Networks are built on the meta device and take the tensors of their file as they are. Values of
their own would be thrown away: for the official CLIP ensemble 6 s of one core, and 1.2 GB of
memory beside the file's for its largest model.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from torch import Tensor, nn

from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet import UNet
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.dinov3 import DinoV3
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.errors import WeightsError
from dstc_engine.weights import architectures
from dstc_engine.weights.formats import (
    check_layout,
    in_float32,
    read_tensors,
    shapes,
    with_all_rows,
    without,
)
from dstc_engine.weights.record import Weights
from dstc_engine.weights.registry import find, verify

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_state(weights: Weights, path: Path) -> dict[str, Tensor]:
    """The tensors of a network, in float32.

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    return in_float32(without(read_tensors(path), weights.unread))


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fills a network, which may be on the meta device, with these very tensors.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape; the first few are named.
    """
    expected = shapes(network.state_dict())
    state = with_all_rows(state, expected)
    check_layout(shapes(state), expected, path)
    network.load_state_dict(state, strict=True, assign=True)
    _make_buffers(network)


def _make_buffers(network: nn.Module) -> None:
    """Computes what no file holds, and a network from the meta device lacks: masks and angles."""
    for module in network.modules():
        lacking = [name for name, b in module.named_buffers(recurse=False) if b.is_meta]
        if isinstance(module, open_clip.CLIP):
            length = module.context_length
            for name in lacking:  # the causal mask of its text tower
                setattr(module, name, torch.full((length, length), -math.inf).triu(1))
        elif lacking:
            for name in lacking:
                setattr(module, name, torch.empty_like(getattr(module, name), device="cpu"))
            cast(Any, module).init_non_persistent_buffers()  # timm's own


def load_unet(name: str, image_size: int) -> UNet:
    """The prior of this name.

    Raises:
        WeightsError: missing or wrong weights, or a prior made for another size of images.
    """
    weights, path = find(name, "prior"), verify(name)
    config = architectures.unet_config(weights)
    if config.image_size != image_size:
        raise WeightsError(
            f"prior {name!r} makes images of {config.image_size} pixels; the preset's "
            f"image_size is {image_size}"
        )
    with torch.device("meta"):
        unet = architectures.build_unet(weights)
    load_strictly(unet, read_state(weights, path), path)
    return unet


def noise_schedule_of(name: str) -> NoiseSchedule:
    """Noise schedule that the prior of this name was trained with.

    Raises:
        WeightsError: unknown weights, or a description that names another schedule than there are.
    """
    return architectures.noise_schedule(find(name, "prior"))


def load_dino(name: str, size: int, layer: int) -> Dino:
    """The ViT of this name, to look at images of `size` pixels and to be read at block `layer`.

    Raises:
        WeightsError: missing or wrong weights, or a size the ViT cannot look at.
    """
    weights, path = find(name, "vit"), verify(name)
    return build_dino(
        weights, size, layer, lambda vit: load_strictly(vit, read_state(weights, path), path)
    )


def build_dino(
    weights: Weights,
    size: int,
    layer: int,
    fill: Callable[[nn.Module], None] | None = None,
) -> Dino:
    """Wraps a ViT with the resize and the normalisation it expects.

    Published ones look at any size that is a multiple of their patch: their embedding of places is
    resampled (bicubic, as timm does), or rotates by the place and fits as it is (DINOv3).

    Args:
        weights: of the ViT. size, layer: see `load_dino`. fill: gives it its values; without, it
            has random ones.

    Raises:
        WeightsError: a size the ViT cannot look at.
    """
    trained, is_rotary = architectures.vit_size(weights), architectures.is_rotary(weights)
    with torch.device("meta") if fill else contextlib.nullcontext():
        vit: Any = architectures.build_vit(weights)
    patch = int(vit.patch_embed.patch_size[0])
    if size != trained and not (weights.is_published and size % patch == 0):
        other = f", or another multiple of {patch}" if weights.is_published else ""
        raise WeightsError(
            f"ViT {weights.name!r} looks at {trained} pixels; the preset's dino_size is {size}, "
            f"expected {trained}{other}"
        )
    if fill:
        fill(vit)
    if size != trained:
        vit.set_input_size(img_size=(size, size))
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if not weights.is_published:
        description = weights.description()
        mean, std = tuple(description["mean"]), tuple(description["std"])
    return (DinoV3 if is_rotary else Dino)(vit, size, layer, mean, std)


def load_clip(name: str) -> Clip:
    """The CLIP model of this name.

    Raises:
        WeightsError: missing or wrong weights.
    """
    weights, path = find(name, "clip"), verify(name)
    with torch.device("meta"):
        model = architectures.build_clip(weights)
    load_strictly(model, read_state(weights, path), path)
    return wrap_clip(weights, model)


def wrap_clip(weights: Weights, model: open_clip.CLIP) -> Clip:
    """Wraps a CLIP model with the normalisation it expects."""
    sizes = architectures.clip_sizes(weights)
    mean, std = architectures.clip_normalization(weights)
    tokenizer = open_clip.SimpleTokenizer(context_length=sizes["text_cfg"]["context_length"])
    return Clip(model, tokenizer, sizes["vision_cfg"]["image_size"], mean, std)


def load_arcface(name: str, crop: tuple[int, int, int, int]) -> ArcFace:
    """The face network of this name, to look at this crop (`ArcFace`).

    Raises:
        WeightsError: missing or wrong weights.
    """
    weights, path = find(name, "face"), verify(name)
    with torch.device("meta"):
        network = ArcFace(crop)
    load_strictly(network, read_state(weights, path), path)
    return network


def load_vgg(name: str, size: int, layers: Collection[str]) -> Vgg:
    """The VGG of this name, to look at images of `size` pixels and to be read at these layers.

    What lies behind the deepest layer is left out by its names.

    Raises:
        WeightsError: missing or wrong weights.
    """
    weights, path = find(name, "vgg"), verify(name)
    network = Vgg(size, layers)
    load_strictly(network, without(read_state(weights, path), sorted(network.unread())), path)
    return network
