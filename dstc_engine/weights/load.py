"""Weights to networks: strictly, so that a missing or foreign tensor is named and not ignored."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.errors import WeightsError
from dstc_engine.unet import UNet, UNetConfig
from dstc_engine.weights.registry import find, verify

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The settings of the published priors, as their authors' commands give them.
PUBLISHED_UNETS = {
    "adm-imagenet256": UNetConfig(
        image_size=256,
        channels=256,
        multipliers=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
        res_blocks=2,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
    ),
    "adm-ffhq256": UNetConfig(
        image_size=256,
        channels=128,
        multipliers=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
        res_blocks=1,
        attention_resolutions=(16,),
        head_channels=64,
    ),
}


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict in float32 from .safetensors or from a PyTorch file of plain tensors.

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip readers raise a dozen unrelated types
        raise WeightsError(f"{path}: not readable as weights ({error})") from error
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fills a network.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape; the first few are named.
    """
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:5])
        raise WeightsError(f"{path}: {len(wrong)} tensors do not fit: {shown}")
    network.load_state_dict(state, strict=True)


def load_unet(name: str, image_size: int) -> UNet:
    """The prior of this name.

    Raises:
        WeightsError: missing or wrong weights, or a prior made for another size of pictures.
    """
    path = verify(name)
    if find(name).shipped:
        config = UNetConfig(**_tupled(find(name).description()["architecture"]))
    else:
        config = PUBLISHED_UNETS[name]
    if config.image_size != image_size:
        raise WeightsError(
            f"prior {name!r} makes pictures of {config.image_size} pixels; the preset's "
            f"image_size is {image_size}"
        )
    unet = UNet(config)
    load_strictly(unet, read_state(path), path)
    return unet


def load_dino(name: str, size: int, layer: int) -> Dino:
    """The ViT of this name, to look at pictures of `size` pixels and to be read at block `layer`.

    Raises:
        WeightsError: missing or wrong weights, or a size the ViT was not made for.
    """
    path = verify(name)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    sizes: dict[str, Any] = dict(img_size=224, patch_size=8, embed_dim=768, depth=12, num_heads=12)
    if find(name).shipped:
        told = find(name).description()
        sizes, mean, std = told["architecture"], tuple(told["mean"]), tuple(told["std"])
    if sizes["img_size"] != size:
        raise WeightsError(
            f"ViT {name!r} looks at {sizes['img_size']} pixels; the preset's dino_size is {size}"
        )
    vit = VisionTransformer(**sizes, num_classes=0)
    load_strictly(vit, read_state(path), path)
    return Dino(vit, size, layer, mean, std)


def load_clip(name: str) -> Clip:
    """The CLIP model of this name.

    Raises:
        WeightsError: missing or wrong weights.
    """
    path = verify(name)
    if not find(name).shipped:
        model = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
        size = model.visual.image_size
        size = size[0] if isinstance(size, tuple) else size
        tokenizer = open_clip.SimpleTokenizer()
        return Clip(
            model, tokenizer, size, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        )
    told = find(name).description()
    sizes = told["architecture"]
    model = open_clip.CLIP(
        sizes["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(**sizes["vision_cfg"]),
        text_cfg=open_clip.CLIPTextCfg(**sizes["text_cfg"]),
        quick_gelu=sizes["quick_gelu"],
    )
    load_strictly(model, read_state(path), path)
    tokenizer = open_clip.SimpleTokenizer(context_length=sizes["text_cfg"]["context_length"])
    return Clip(
        model, tokenizer, sizes["vision_cfg"]["image_size"], tuple(told["mean"]), tuple(told["std"])
    )


def load_arcface(name: str, crop: tuple[int, int, int, int]) -> ArcFace:
    """The face network of this name, to look at this crop (`ArcFace`).

    Raises:
        WeightsError: missing or wrong weights.
    """
    path = verify(name)
    network = ArcFace(crop)
    load_strictly(network, read_state(path), path)
    return network


def load_vgg(name: str, size: int, layers: Collection[str]) -> Vgg:
    """The VGG of this name, to look at pictures of `size` pixels and to be read at these layers.

    The file's classifier, and what lies behind the deepest layer, is left out by its names.

    Raises:
        WeightsError: missing or wrong weights.
    """
    path = verify(name)
    network = Vgg(size, layers)
    unread = network.unread()
    state = {tensor: value for tensor, value in read_state(path).items() if tensor not in unread}
    load_strictly(network, state, path)
    return network


def _tupled(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
