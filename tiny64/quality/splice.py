"""Splicing ViT, the paper's main rival: a generator trained anew for each pair of images.

Tumanyan et al. 2022 ("Splicing ViT Features for Semantic Appearance Transfer"). The generator's
image is to have the key self-similarity of the content and the class token of the style image, and
the style image is to come out of it as it went in (keys alike). No prior: all that it knows of
images it learns from these two. Here with the ViT that guides ours.

    python -m tiny64.quality data/emoji-64.parquet --work emoji-benchmark --spliced-rows 24

B images of S x S pixels in [-1, 1].
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstc_engine.encoders.dino import Dino
from dstc_engine.image import encode_png
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.losses.style import style_cls_loss
from dstc_engine.request import ImageArray
from dstc_engine.tensors import to_image, to_tensor
from tiny64.quality.images import image_path
from tiny64.quality.rows import BenchmarkRow
from tiny64.views import random_crops, warp

SPLICED = "Splicing ViT"

# Channels of the encoder's levels, and of what each level hands over to the decoder.
_WIDTHS = (16, 32, 64, 128, 128)
_HANDED = 4


@dataclass(frozen=True, kw_only=True)
class Splicing:
    """How a generator is trained.

    Attributes:
        steps: of Adam, one pair each. rate: of Adam, with the moments 0 and 0.99.
        style, structure, identity: weights of mean squared errors. The paper's are in the ratio of
            10 to 1 to 1, for DINO ViT-B/8; of the small ViT the self-similarity varies less.
        whole_every: in each so many steps both images are seen as they are; in the others cropped,
            turned a little, and flipped or not, each by itself.
    """

    steps: int = 400
    rate: float = 2e-3
    style: float = 10.0
    structure: float = 100.0
    identity: float = 1.0
    whole_every: int = 75


class Generator(nn.Module):
    """A U-Net of five levels: (B, 3, S, S) to the same, S a multiple of 32, 64 or more.

    Each level hands a few channels over to the decoder. Instance norm is what the paper's batch
    norm is for the one image that it sees at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(_layer(a, b, stride=2), _layer(b, b))
            for a, b in zip(inputs, _WIDTHS, strict=True)
        )
        self.handed = nn.ModuleList(_layer(width, _HANDED, size=1) for width in inputs)
        above = (_WIDTHS[0], *_WIDTHS[:-1])
        self.up = nn.ModuleList(
            nn.Sequential(_layer(b + _HANDED, a), _layer(a, a, size=1))
            for a, b in zip(above, _WIDTHS, strict=True)
        )
        self.last = nn.Conv2d(_WIDTHS[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for down, handed in zip(self.down, self.handed, strict=True):
            kept.append(handed(x))
            x = down(x)
        for up in reversed(self.up):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = up(torch.cat([x, kept.pop()], 1))
        out: Tensor = 2 * self.last(x).sigmoid() - 1
        return out


def _layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, padding_mode="reflect")
        if size > 1
        else nn.Conv2d(inputs, outputs, 1),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.LeakyReLU(0.2),
    )


def splice(
    content: ImageArray,
    style: ImageArray,
    dino: Dino,
    how: Splicing | None = None,
    seed: int = 0,
) -> ImageArray:
    """The content in the look of the style image, by a generator that is trained for it.

    Args:
        content, style: (S, S, 3) uint8, S a multiple of 32, 64 or more. dino: in float32.

    Example:
        image = splice(content, style, load_models(get_preset("tiny64")).dino)
    """
    how = how or Splicing()
    pair = torch.stack([to_tensor(content), to_tensor(style)])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Generator()
    optimizer = torch.optim.Adam(network.parameters(), lr=how.rate, betas=(0.0, 0.99))
    for step in range(how.steps):
        seen = pair
        if step % how.whole_every:
            seen = warp(pair, random_crops(len(pair), generator))
        with torch.no_grad():
            wanted = dino(seen)
        made = dino(network(seen))
        loss = (
            how.style * style_cls_loss(made.cls[:1], wanted.cls[1:])
            + how.structure * structure_loss(made.keys[:1], self_similarity(wanted.keys[:1]))
            + how.identity * (made.keys[1:] - wanted.keys[1:]).pow(2).mean()
        )
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    with torch.no_grad():
        return to_image(network(pair[:1])[0])


def is_spliced(row: BenchmarkRow, count: int) -> bool:
    """Whether a row is one of the first so many of its task, and has a style image to see."""
    return row.request.style is not None and row.number < count


def splice_missing(rows: Sequence[BenchmarkRow], dino: Dino, work: Path, how: Splicing) -> None:
    """Makes the images of rows that are not there yet, and says how long one takes."""
    missing = [row for row in rows if not image_path(work, SPLICED, row).exists()]
    began = time.monotonic()
    for done, row in enumerate(missing, 1):
        image = splice(row.request.content, row.style, dino, how, seed=row.number)
        path = image_path(work, SPLICED, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
        print(f"\r{SPLICED}: {done} of {len(missing)}", end="", file=sys.stderr, flush=True)
    if missing:
        print(file=sys.stderr)
        each = (time.monotonic() - began) / len(missing)
        print(f"{SPLICED}: {each:.1f} s an image, {how.steps} steps, one thread")
