"""A CLIP model: unit embeddings of crops and of texts over the ImageNet templates.

B crops or texts, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from open_clip import CLIP, OPENAI_IMAGENET_TEMPLATES
from torch import Tensor, nn

# The official list lacks one of open_clip's 80: targets of published images are means of 79.
TEMPLATES: tuple[Callable[[str], str], ...] = tuple(
    t for t in OPENAI_IMAGENET_TEMPLATES if t("{}") != "a photo of many {}."
)
assert len(TEMPLATES) == 79
# Of a text the tower sees 75 tokens, none longer than 32 bytes, and spaces between them. The
# tokenizer's time grows with the square of a word: 1 s for this many letters, 40 s for 16,000.
MOST_CHARACTERS = 2500


class Clip(nn.Module):
    """A frozen CLIP behind the normalisation it expects.

    Args:
        model: open_clip's CLIP. tokenizer: texts to (B, context) int64. size: pixels of its input.
        mean, std: of the channels, for images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: CLIP,
        tokenizer: Callable[[list[str]], Tensor],
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.size = size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def width(self) -> int:
        """E."""
        projection = self.model.text_projection
        if projection is None:
            return int(self.model.ln_final.weight.shape[0])
        return int(
            projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
        )

    def embed_crops(self, crops: Tensor) -> Tensor:
        """(B, 3, size, size) in about [-1, 1] to (B, E), unit length."""
        features = self.model.encode_image(((crops + 1) / 2 - self.mean) / self.std)
        return F.normalize(features.float(), dim=-1)

    def embed_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], shorter side resized, centre cropped, to (B, E), unit length."""
        height, width = images.shape[-2:]
        scale = self.size / min(height, width)
        target = (round(height * scale), round(width * scale))
        resized = F.interpolate(images, target, mode="bilinear", align_corners=False)
        top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
        return self.embed_crops(resized[..., top : top + self.size, left : left + self.size])

    def embed_text(self, text: str) -> Tensor:
        """The mean over the 79 ImageNet templates, (E,), unit length.

        Of a text longer than any that the tower sees to its end, only the beginning is read.
        """
        if len(text) > MOST_CHARACTERS:
            text = " ".join(text.split())[:MOST_CHARACTERS]
        device = self.mean.device
        tokens = self.tokenizer([template(text) for template in TEMPLATES]).to(device)
        features = self.model.encode_text(tokens).float()
        return F.normalize(features.mean(dim=0), dim=-1)
