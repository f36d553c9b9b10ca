"""The ViT that structure and appearance are read from: keys and class token of one block.

S images, T tokens (class token first), D width. DINO ViT-B/8 at 224 px: T = 785, D = 768.
Source: Tumanyan et al. 2022 ("Splicing ViT Features"), which the paper's structure loss builds on.

Besides, a cheaper look at whole images, `glance`, for those who judge them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dstc_engine.attention import attend
from dstc_engine.encoders.prepare import prepare
from dstc_engine.errors import PresetError


@dataclass(frozen=True, eq=False)
class DinoFeatures:
    """Features of images from one pass of the ViT.

    Attributes:
        keys: (S, T, D) keys of the block's attention, heads concatenated, class token included.
        cls: (S, D) class token of the block's output, before the final norm.
    """

    keys: Tensor
    cls: Tensor


class Dino(nn.Module):
    """A frozen ViT behind the resize and the normalisation it expects.

    Args:
        vit: timm's VisionTransformer. size: pixels that the shorter side is resized to.
        layer: the block to read, from 0; -1 is the last. mean, std: of the channels, for [0, 1].

    Raises:
        PresetError: no such block.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vit: VisionTransformer,
        size: int,
        layer: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.vit = vit
        self.size = size
        depth = len(vit.blocks)
        if not -depth <= layer < depth:
            raise PresetError(f"dino_layer is {layer}; expected -1 to {depth - 1}: {depth} blocks")
        self.layer = layer % depth
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> DinoFeatures:
        """(S, 3, H, W) in about [-1, 1] to features."""
        return self.features(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """[-1, 1] to the ViT's own size and normalisation."""
        return prepare(images, self.size, self.mean, self.std)

    def features(self, prepared: Tensor) -> DinoFeatures:
        """Features of images that went through `prepare`."""
        tokens = self._embed(prepared)[0]
        for block in self.vit.blocks[: self.layer]:
            tokens = block(tokens)
        return _read_block(cast(Block, self.vit.blocks[self.layer]), tokens)

    def glance(self, images: Tensor, with_cls: bool) -> tuple[Tensor, Tensor | None]:
        """A look at every third patch, along diagonals, from one block earlier.

        For judging images that this ViT's own block may have guided: a block that was not
        descended on tells more of what went wrong (`python -m tiny64.quality.gates` says how much),
        and a third of the patches takes a quarter of the time.

        Args:
            images: (S, 3, H, W) in about [-1, 1]. with_cls: whether to go on to the class token.

        Returns:
            (S, T', D) keys, T' a third of T; (S, D) class token of the output of `layer`, or None.
        """
        tokens, options = self._embed(self.prepare(images))
        tokens, options = self._thin(tokens, options)
        before = max(self.layer - 1, 0)
        blocks: Any = self.vit.blocks
        for block in blocks[:before]:
            tokens = block(tokens, **options)
        qkv, width = blocks[before].attn.qkv, tokens.shape[-1]
        middle = slice(width, 2 * width)
        bias = None if qkv.bias is None else qkv.bias[middle]
        keys = F.linear(blocks[before].norm1(tokens), qkv.weight[middle], bias)
        keys = torch.cat([keys[:, :1], keys[:, self.vit.num_prefix_tokens :]], dim=1)
        if not with_cls:
            return keys, None
        for block in blocks[before : self.layer + 1]:
            tokens = block(tokens, **options)
        return keys, tokens[:, 0]

    def _embed(self, prepared: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(S, T, D) what the first block sees, and what each block is told besides."""
        vit = self.vit
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(prepared)))), {}

    def _thin(self, tokens: Tensor, options: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens with every third patch only, and what belongs to each patch likewise."""
        first, columns = self.vit.num_prefix_tokens, self.vit.patch_embed.grid_size[1]
        count = tokens.shape[1] - first
        kept = [place for place in range(count) if (place // columns + place % columns) % 3 == 0]
        thinned = torch.cat([tokens[:, :first], tokens[:, first:][:, kept]], dim=1)
        return thinned, {name: each[..., kept, :] for name, each in options.items()}


def _read_block(block: Block, tokens: Tensor) -> DinoFeatures:
    """A block's own arithmetic, unrolled so that its keys can be read without a hook.

    Hooks break compiled graphs, and a second pass of qkv would cost a twelfth of the block.
    """
    attention: Any = block.attn
    count, length, width = tokens.shape
    qkv = attention.qkv(block.norm1(tokens))
    heads = attention.num_heads
    q, k, v = qkv.reshape(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = attend(attention.q_norm(q), attention.k_norm(k), v)
    mixed = attention.proj(mixed.transpose(1, 2).reshape(count, length, width))
    tokens = tokens + block.ls1(mixed)
    tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return DinoFeatures(keys=qkv[..., width : 2 * width], cls=tokens[:, 0])
