"""What a student is trained by: its teacher's results, and the method's own losses.

B images of S x S pixels, F numbers that describe a look, D width and T tokens of the ViT.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.dino import DinoFeatures
from dstc_engine.losses.contrast import contrast_loss
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.student.encoders import StudentEncoders


def teacher_losses(ours: DinoFeatures, theirs: DinoFeatures) -> dict[str, Tensor]:
    """How far an image is from the teacher's result as the ViT sees both, scalars by name.

    One minus the cosine of keys (mean over tokens) and of class tokens: unlike pixels, they tell a
    blurred texture from a sharp one.
    """
    return {
        "keys": (1 - F.cosine_similarity(ours.keys.float(), theirs.keys.float(), dim=-1)).mean(),
        "cls": (1 - F.cosine_similarity(ours.cls.float(), theirs.cls.float(), dim=-1)).mean(),
    }


def own_losses(
    encoders: StudentEncoders,
    images: Tensor,
    ours: DinoFeatures,
    content: DinoFeatures,
    looks: Tensor,
    temperature: float,
) -> dict[str, Tensor]:
    """The method's losses, which need no teacher, scalars by name.

    structure, contrast: to the content (Kwon & Ye 2023). look: one minus the cosine of class
    tokens to the style image's, and of the whole image's CLIP embedding to the prompt's, mean over
    those that the looks have.

    Args:
        images: (B, 3, S, S), of which `ours` are the features. looks: (B, F).
        temperature: of the contrastive loss, the preset's.
    """
    keys, theirs = ours.keys.float(), content.keys.float()
    width, *others = encoders.widths
    style = 1 - F.cosine_similarity(ours.cls.float(), looks[:, 2 : 2 + width], dim=-1)
    distance = (style * looks[:, 0]).sum()
    if others:
        texts = torch.split(looks[:, 2 + width :], others, dim=1)
        for model, text in zip(encoders.clips, texts, strict=True):
            cosine = (model.embed_image(images) * text).sum(dim=1)
            distance = distance + ((1 - cosine) * looks[:, 1]).sum() / len(others)
    return {
        "structure": structure_loss(keys, self_similarity(theirs)).mean(),
        "contrast": contrast_loss(keys, theirs, temperature).mean(),
        "look": distance / looks[:, :2].sum().clamp(min=1),
    }


def see(encoders: StudentEncoders, images: Tensor) -> DinoFeatures:
    """What the ViT sees in images that need no gradient."""
    with torch.no_grad():
        return encoders.dino(images)
