"""DINOv3: a ViT that knows places by rotation and has register tokens beside the class token.

Siméoni et al. 2025. S images, T tokens (class token, then patches; registers left out), D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.dino import Dino, DinoFeatures


class DinoV3(Dino):
    """As `Dino`, around timm's Eva.

    Keys are taken before they are rotated: what is rotated by its place would tell two equal parts
    at different places apart.
    """

    def features(self, prepared: Tensor) -> DinoFeatures:
        """Features of images that went through `prepare`."""
        vit = cast(Any, self.vit)
        tokens, options = self._embed(prepared)
        for block in vit.blocks[: self.layer]:
            tokens = block(tokens, **options)
        block = vit.blocks[self.layer]
        width = tokens.shape[-1]
        # The middle third of qkv, which has no bias; the block computes it once more for itself.
        keys = F.linear(block.norm1(tokens), block.attn.qkv.weight[width : 2 * width])
        keys = torch.cat([keys[:, :1], keys[:, vit.num_prefix_tokens :]], dim=1)
        return DinoFeatures(keys=keys, cls=block(tokens, **options)[:, 0])

    def _embed(self, prepared: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        vit = cast(Any, self.vit)
        tokens, rotation = vit._pos_embed(vit.patch_embed(prepared))
        return vit.norm_pre(tokens), {"rope": rotation}
