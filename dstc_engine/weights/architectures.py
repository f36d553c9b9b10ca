"""Architectures of weights: sizes by flags, timm, open_clip, or a description.

Networks are built on the device of the surrounding `torch.device`, with whatever values their
classes give; on "meta" that takes no memory and tells every tensor's name and shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import open_clip
import timm
import torch
from open_clip.pretrained import get_pretrained_cfg
from timm.models import get_pretrained_cfg as get_timm_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.errors import WeightsError
from dstc_engine.preset_fields import VGG_LAYERS
from dstc_engine.weights import described
from dstc_engine.weights.record import Weights

# Of the published priors, as the official script sets them (channel_mult "" takes the defaults of
# the size); the two of ImageNet are those of guided-diffusion's README.
_ADM: dict[str, object] = {
    "num_channels": 256,
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "attention_resolutions": "32,16,8",
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
}
PUBLISHED_FLAGS: dict[str, dict[str, object]] = {
    "adm-imagenet256": _ADM | {"image_size": 256},
    "adm-imagenet512": _ADM | {"image_size": 512, "class_cond": True},
    "adm-ffhq256": _ADM
    | {
        "image_size": 256,
        "num_channels": 128,
        "num_res_blocks": 1,
        "attention_resolutions": "16",
    },
}


def unet_config(weights: Weights) -> UNetConfig:
    """The shape of a prior.

    Raises:
        WeightsError: its description asks for what cannot be built.
    """
    if weights.is_published:
        return UNetConfig.from_flags(PUBLISHED_FLAGS[weights.name])
    return described.unet_config_of(weights.description(), f"weights {weights.name!r}")


def noise_schedule(weights: Weights) -> NoiseSchedule:
    """Noise schedule that a prior was trained with.

    Raises:
        WeightsError: its description names another than there are.
    """
    if weights.is_published:
        return NoiseSchedule.from_flags(PUBLISHED_FLAGS[weights.name])
    return described.noise_schedule_of(weights.description(), f"weights {weights.name!r}")


def build_unet(weights: Weights) -> UNet:
    """A prior."""
    return UNet(unet_config(weights))


def vit_size(weights: Weights) -> int:
    """Pixels that a ViT was trained to look at."""
    if weights.is_published:
        config: Any = get_timm_cfg(weights.upstream)
        return int(config.input_size[-1])
    return int(weights.description()["architecture"]["img_size"])


def is_rotary(weights: Weights) -> bool:
    """Whether a ViT knows places by rotation (DINOv3), and so fits any size as it is."""
    return weights.upstream.endswith(".lvd1689m")


def build_vit(weights: Weights) -> nn.Module:
    """A ViT without a head, at the size it was trained with: timm's class, its Eva for DINOv3.

    Raises:
        WeightsError: its description asks for what cannot be built.
    """
    if not weights.is_published:
        with _refusing(weights):
            return VisionTransformer(**weights.description()["architecture"], num_classes=0)
    name = weights.upstream.partition(".")[0]
    return timm.create_model(name, num_classes=0, img_size=vit_size(weights))


def clip_sizes(weights: Weights) -> dict[str, Any]:
    """embed_dim, vision_cfg, text_cfg, quick_gelu of a CLIP model, as open_clip names them."""
    if weights.is_published:
        found = open_clip.get_model_config(weights.upstream.partition("/")[0])
    else:
        found = weights.description()["architecture"]
    return {"quick_gelu": False, **found}


def clip_normalization(weights: Weights) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels that a CLIP model expects, for [0, 1]."""
    if weights.is_published:
        config = get_pretrained_cfg(*weights.upstream.split("/"))
    else:
        config = weights.description()
    return tuple(config["mean"]), tuple(config["std"])


def build_clip(weights: Weights) -> open_clip.CLIP:
    """A CLIP model.

    Raises:
        WeightsError: its description asks for what cannot be built.
    """
    sizes = clip_sizes(weights)
    with _refusing(weights):
        return open_clip.CLIP(
            sizes["embed_dim"],
            vision_cfg=open_clip.CLIPVisionCfg(**sizes["vision_cfg"]),
            text_cfg=open_clip.CLIPTextCfg(**sizes["text_cfg"]),
            quick_gelu=sizes["quick_gelu"],
        )


@contextlib.contextmanager
def _refusing(weights: Weights) -> Iterator[None]:
    """Says whose sizes they are that timm or open_clip cannot build from."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(f"weights {weights.name!r}: cannot be built: {error}") from error


_BUILDERS: dict[str, Callable[[Weights], nn.Module]] = {
    "prior": build_unet,
    "vit": build_vit,
    "clip": build_clip,
    "face": lambda weights: ArcFace(),
    "vgg": lambda weights: Vgg(224, VGG_LAYERS),
}


def layout(weights: Weights) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a published file must hold, besides its `unread` ones."""
    with torch.device("meta"):
        network = _BUILDERS[weights.kind](weights)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
