"""The small vision transformer, its sizes, and how it is trained.

B images, T = 256 patch tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dstc_engine.training.settings import TrainingSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LEVELS = 4  # of each colour channel in a palette


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of the transformer, under the names of timm's `VisionTransformer`."""

    img_size: int = 64
    patch_size: int = 4
    embed_dim: int = 128
    depth: int = 6
    num_heads: int = 4

    @property
    def side(self) -> int:
        """Tokens along one side."""
        return self.img_size // self.patch_size

    def build(self) -> VisionTransformer:
        """A new network with random weights; its output is the normed CLS token."""
        return VisionTransformer(**asdict(self), num_classes=0)


@dataclass(frozen=True, kw_only=True)
class ViTTraining(TrainingSettings):
    """How the transformer is trained; `TrainingSettings` has the other fields.

    Attributes:
        positions: sampled per image for the dense contrast. window: side of a crop in tokens.
        key_temperature, crop_temperature: of the two contrasts.
        look_temperature: of the contrast between styles, in mean squared differences of CLS.
        keys, crops, style, looks, palette, silhouette: weights of the losses.
        twin_share: how often view 2 is the twin. moved, move: how often view 2 is moved, and by up
            to how many tokens each way.
        alike: two images of one style whose palettes overlap by more are not told apart.
        token_drop: share of the views' tokens that is dropped, until the last `whole` of the
            steps; 0.6 trains 1.9 times as many images in the same time (fp32, one CPU core). What
            the dense contrast asks for is never dropped. 0 by default: what dropping does to the
            keys has not been measured.
        perturbed: views are moved by up to this Euclidean length in normalised units, so that the
            losses of CLS rise (`tiny64/perturbed.py`); 0 for not at all. Nearly doubles a step.
        every_style: train on the emoji styles beyond `CORE_STYLES`, too; val stays with these.
    """

    steps: int = 900
    batch: int = 32
    peak_rate: float = 1e-3
    ema: float = 0.99
    positions: int = 96
    window: int = 8
    key_temperature: float = 0.1
    crop_temperature: float = 0.15
    look_temperature: float = 0.2
    keys: float = 1.0
    crops: float = 0.5
    style: float = 0.5
    looks: float = 0.0
    palette: float = 0.3
    silhouette: float = 0.5
    twin_share: float = 0.75
    moved: float = 0.5
    move: int = 4
    alike: float = 0.6
    token_drop: float = 0.0
    whole: float = 0.2
    perturbed: float = 0.0
    every_style: bool = False


def look(
    vit: VisionTransformer,
    x: Tensor,
    corners: Tensor | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """CLS token and keys of the last block, as guidance reads them.

    Args:
        x: (B, 3, S, S) normalised images, or with `corners` windows of them, a multiple of the
            patch in size.
        corners: (B, 2) int64, the (row, column) in tokens at which each window lies.
        kept: (B, K) int64, the tokens that are seen; None is all T of them.

    Returns:
        (B, D) CLS token before the final norm; (B, 1 + T, D) keys, or (B, 1 + K, D) of the tokens
        kept, CLS first, heads joined.
    """
    network: Any = vit  # timm annotates too loosely for strict checks
    tokens = network.patch_embed.proj(x)
    rows, columns = tokens.shape[-2:]
    tokens = tokens.flatten(2).transpose(1, 2)
    cls_position, position = network.pos_embed[:, :1], network.pos_embed[:, 1:]
    if corners is not None:
        side = math.isqrt(position.shape[1])
        y = corners[:, :1, None] + torch.arange(rows, device=x.device)[:, None]
        place = y * side + corners[:, 1:, None] + torch.arange(columns, device=x.device)
        position = position[0][place.flatten(1)]
    tokens = tokens + position
    if kept is not None:
        tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[-1]))
    cls = (network.cls_token + cls_position).expand(len(x), -1, -1)
    tokens = torch.cat([cls, tokens], 1)
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    return _last_block(network.blocks[-1], tokens)


def _last_block(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    # Of the last block only its keys and its CLS token are read: the other tokens need no queries,
    # no projection and no MLP, which are 10 of its 12 D x D products a token.
    attention = block.attn
    count, _, width = tokens.shape
    heads = attention.num_heads
    normed = block.norm1(tokens)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(normed[:, :1], weight[:width], bias[:width])
    keys, values = F.linear(normed, weight[width:], bias[width:]).chunk(2, -1)
    q, k, v = (
        part.reshape(count, -1, heads, width // heads).transpose(1, 2)
        for part in (query, keys, values)
    )
    scores = attention.q_norm(q) @ attention.k_norm(k).transpose(-2, -1) * attention.scale
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, 1, width)
    cls = tokens[:, :1] + block.ls1(attention.proj(mixed))
    cls = cls + block.ls2(block.mlp(block.norm2(cls)))
    return cls[:, 0], keys


@dataclass(frozen=True)
class Seen:
    """What the network and its heads make of the views; N = 2B views or windows.

    Attributes:
        keys: (N, T, D) of the views, or (N, K, D) of the tokens kept. silhouette: (N, T) or (N, K)
            logits from them.
        cls: (N, D) of the views, before the final norm. seals, crop_seals: (N, D) unit vectors for
            the crop contrast, of views and windows. style, crop_style: (N, styles) logits.
        palette: (N, LEVELS^3) logits.
    """

    keys: Tensor
    silhouette: Tensor
    cls: Tensor
    seals: Tensor
    crop_seals: Tensor
    style: Tensor
    crop_style: Tensor
    palette: Tensor


class ViTWithHeads(nn.Module):
    """The transformer and the linear heads that exist in training alone."""

    def __init__(self, config: ViTConfig, styles: int, bf16: bool = True) -> None:
        super().__init__()
        width = config.embed_dim
        self.vit = config.build()
        blocks: Any = self.vit.blocks
        for block in blocks:
            # In bf16 plain attention trains 1.4 times as fast as the fused one, in fp32 the fused
            # one 1.2 times as fast (a whole step, one CPU core).
            block.attn.fused_attn = not bf16
        self.seal = nn.Linear(width, width, bias=False)
        self.style = nn.Linear(width, styles)
        self.palette = nn.Linear(width, LEVELS**3)
        self.silhouette = nn.Linear(width, 1)

    def forward(
        self, views: Tensor, windows: Tensor, corners: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Views (N, 3, S, S) and windows (N, 3, W, W) at corners (N, 2): the fields of `Seen`.

        Of the views only the tokens of kept (N, K) are seen; None is all of them.
        """
        cls, keys = look(self.vit, views, kept=kept)
        crop_cls, _ = look(self.vit, windows, corners)
        normed, crop_normed = self.vit.norm(cls), self.vit.norm(crop_cls)
        return (
            keys[:, 1:].float(),
            self.silhouette(keys[:, 1:]).squeeze(-1).float(),
            cls.float(),
            F.normalize(self.seal(normed).float(), dim=-1),
            F.normalize(self.seal(crop_normed).float(), dim=-1),
            self.style(normed).float(),
            self.style(crop_normed).float(),
            self.palette(normed).float(),
        )
