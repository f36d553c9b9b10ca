"""Changed views of training images: silhouettes, geometry, colour, blur and noise.

B images, S their side. Every draw comes from the generator given, on the CPU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WHITE_LEVEL = 243  # JPEG-free drawings: what is darker than this in any channel was drawn


def silhouettes(pixels: Tensor) -> Tensor:
    """What of (N, 3, S, S) uint8 images belongs to the drawing: (N, S, S) bool.

    White that the border reaches is background; white inside an outline (a line drawing's face)
    belongs to the drawing, so that a line drawing and its coloured twin have the same silhouette.
    """
    return torch.cat([_silhouette_block(block) for block in torch.split(pixels, 256)])


def _silhouette_block(pixels: Tensor) -> Tensor:
    white = (pixels >= WHITE_LEVEL).all(1)
    border = torch.zeros_like(white)
    border[:, 0] = border[:, -1] = border[:, :, 0] = border[:, :, -1] = True
    reached = white & border
    while True:
        grown = reached.clone()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= white
        if torch.equal(grown, reached):
            return ~reached
        reached = grown


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count,) float32 between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=generator)


def random_geometry(
    count: int,
    generator: torch.Generator,
    degrees: float = 10.0,
    scale: tuple[float, float] = (0.75, 1.1),
    shift: float = 0.1,
) -> Tensor:
    """Similarity transforms for `warp`, (count, 2, 3): half of them are flips.

    Args:
        degrees: rotation is within plus and minus this. scale: of the drawing, above 1 is larger.
        shift: of the drawing, within plus and minus this share of the side.
    """
    angle = uniform(count, -math.pi * degrees / 180, math.pi * degrees / 180, generator)
    zoom = 1 / uniform(count, *scale, generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    x, y = (uniform(count, -2 * shift, 2 * shift, generator) for _ in range(2))
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos * flip, -sin, x], 1), torch.stack([sin * flip, cos, y], 1)]
    return torch.stack(rows, 1)


def random_crops(count: int, generator: torch.Generator) -> Tensor:
    """The crops that the engine shows CLIP, as (count, 2, 3) transforms for `warp`.

    Rotation within 10 degrees, area .8 to 1, ratio .9 to 1.1, anywhere inside, half flipped.
    """
    area, angle = (
        uniform(count, 0.8, 1.0, generator),
        uniform(count, -math.pi / 18, math.pi / 18, generator),
    )
    ratio = uniform(count, math.log(0.9), math.log(1.1), generator).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x = (1 - width) * uniform(count, -1, 1, generator)
    y = (1 - height) * uniform(count, -1, 1, generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * width * flip, -sin * height, cos * x - sin * y], 1),
        torch.stack([sin * width * flip, cos * height, sin * x + cos * y], 1),
    ]
    return torch.stack(rows, 1)


def warp(images: Tensor, geometry: Tensor, empty: float = 1.0) -> Tensor:
    """Resamples (B, C, S, S) by (B, 2, 3) transforms; outside is `empty`, white for images."""
    grid = F.affine_grid(geometry, list(images.shape), align_corners=False)
    moved = F.grid_sample(images - empty, grid, padding_mode="zeros", align_corners=False)
    return moved + empty


def recolor(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Gives a `share` of (B, 3, S, S) images other colours; shapes and white paper stay.

    In turn: hue turned and saturation scaled (to grey, now and then), channels bent by a gamma,
    and ink lightened, so that black lines may become coloured ones.
    """
    count = len(images)
    ink = (1 - images) / 2  # 0 is white paper
    gray = ink.mean(1, keepdim=True)
    chroma = ink - gray
    angle = uniform(count, -math.pi, math.pi, generator)
    saturation = uniform(count, 0.4, 1.4, generator)
    saturation = torch.where(torch.rand(count, generator=generator) < 0.2, 0.0, saturation)
    turned = torch.einsum("bij,bjhw->bihw", _turn(angle) * saturation[:, None, None], chroma)
    changed = (gray + turned).clamp(0, 1)
    gamma = uniform(count, math.log(0.5), math.log(2.0), generator).exp()
    changed = changed.pow(gamma[:, None, None, None])
    strength = 1 - 0.6 * torch.rand(count, 3, generator=generator)
    strength = torch.where(torch.rand(count, 1, generator=generator) < 0.5, 1.0, strength)
    changed = changed * strength[:, :, None, None]
    chosen = torch.rand(count, generator=generator) < share
    return torch.where(chosen[:, None, None, None], 1 - 2 * changed, images)


def _turn(angle: Tensor) -> Tensor:
    # Rotation about the grey axis (1, 1, 1), by Rodrigues' formula.
    third, root = 1 / 3, math.sqrt(1 / 3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = root * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return cos * torch.eye(3) + sin * cross + (1 - cos) * third


def degrade(
    images: Tensor,
    share: float,
    generator: torch.Generator,
    blur: float = 1.8,
    noise: float = 0.25,
) -> Tensor:
    """Blurs and noises a `share` of (B, 3, S, S): in guidance, networks see half-denoised images.

    Args:
        blur, noise: largest standard deviations, in pixels and in units of the [-1, 1] range.
    """
    count, channels, size, _ = images.shape
    chosen = torch.rand(count, 2, generator=generator) < share
    sigma = torch.where(chosen[:, 0], uniform(count, 0.3, blur, generator), 1e-3)
    reach = torch.arange(-4, 5, dtype=torch.float32)
    kernel = (-0.5 * (reach / sigma[:, None]).pow(2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(images.reshape(1, -1, size, size), (4, 4, 4, 4), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    amount = torch.where(chosen[:, 1], noise * torch.rand(count, generator=generator), 0.0)
    speckle = torch.randn(images.shape, generator=generator)
    return flat.reshape(images.shape) + amount[:, None, None, None] * speckle


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, 3, S, S) in [-1, 1] to an encoder's input: ((x + 1) / 2 - mean) / std per channel."""
    center = torch.tensor(mean, device=images.device)[:, None, None]
    spread = torch.tensor(std, device=images.device)[:, None, None]
    return ((images + 1) / 2 - center) / spread
