"""Trains a small vision transformer to see shape in its keys and appearance in its CLS token.

Guidance reads two things from the last block: the keys (where is what) and the CLS token (how does
it look). DINO (Caron et al. 2021) finds both in millions of photographs; with thousands of drawings
in known styles each is trained for directly, on views that share one and differ in the other:

    source picture     -- colours, geometry g --------------> view 1  } keys match position by
    its twin           -- other colours, g, moved, flipped -> view 2  } position (dense contrast)
    view 1's colours   -- another geometry, small window ---> crop 1  } CLS matches its own view,
    view 2's colours   -- another geometry, small window ---> crop 2  } not the same shape's other
A picture's twin is the same subject in the other style of an aligned pair; where there is none, the
picture itself in other colours. Linear heads on CLS (style, palette) and on the keys (silhouette)
speed this up and are thrown away.

    python -m tiny64.vit --data emoji-64.parquet --out runs/vit --steps 900

    B pictures, T = 256 patch tokens, D width, P sampled positions.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dstc_engine.training.checkpoint import load_checkpoint, save_checkpoint
from dstc_engine.training.images import Pictures, load_pictures
from dstc_engine.training.initial import begin
from dstc_engine.training.loop import Pace, World, learning_rate, shuffled_rows, update_ema
from dstc_engine.training.records import log_metrics, save_weights
from dstc_engine.training.sheet import write_sheet
from tiny64.views import (
    degrade,
    normalise,
    random_geometry,
    recolour,
    silhouettes,
    warp,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

TWINS = {
    "fluent_flat": "fluent_3d",
    "fluent_3d": "fluent_flat",
    "openmoji": "openmoji_line",
    "openmoji_line": "openmoji",
}
"""Styles whose drawings of a subject lie on top of each other (silhouette IoU 0.97 and 0.89)."""

LEVELS = 4  # of each colour channel in a palette

COLUMNS = (
    "loss",
    "loss_keys",
    "loss_crops",
    "loss_style",
    "loss_palette",
    "loss_silhouette",
    "val_style_probe",
    "val_style_5nn",
    "val_match",
    "val_match_near",
    "val_match_drawn",
    "val_match_drawn_near",
    "val_self_similarity_twins",
    "val_self_similarity_random",
    "val_shape_vendors",
    "val_shape_twins",
    "val_shape_line",
    "val_shape_recoloured",
    "val_cls_same_style",
    "val_cls_same_subject",
)


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
class ViTTraining:
    """How the transformer is trained.

    Attributes:
        steps, batch: length, and pictures per step over all workers. peak_rate: of AdamW.
        ema: decay of the averaged weights, which are what is shipped.
        positions: sampled per picture for the dense contrast. window: side of a crop in tokens.
        key_temperature, crop_temperature: of the two contrasts.
        keys, crops, style, palette, silhouette: weights of the losses.
        twin_share: how often view 2 is the twin. moved, move: how often view 2 is moved, and by up
            to how many tokens each way.
        alike: two pictures of one style whose palettes overlap by more are not told apart.
    """

    steps: int = 900
    batch: int = 32
    peak_rate: float = 1e-3
    ema: float = 0.99
    positions: int = 96
    window: int = 8
    key_temperature: float = 0.1
    crop_temperature: float = 0.15
    keys: float = 1.0
    crops: float = 0.5
    style: float = 0.5
    palette: float = 0.3
    silhouette: float = 0.5
    twin_share: float = 0.75
    moved: float = 0.5
    move: int = 4
    alike: float = 0.6
    seed: int = 0
    bf16: bool = True


def look(vit: VisionTransformer, x: Tensor, corners: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """CLS token and keys of the last block, as guidance reads them.

    Args:
        x: (B, 3, S, S) normalised pictures, or with `corners` windows of them, a multiple of the
            patch in size.
        corners: (B, 2) int64, the (row, column) in tokens at which each window lies.

    Returns:
        (B, D) CLS token before the final norm; (B, 1 + T, D) keys, CLS first, heads joined.
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
    cls = (network.cls_token + cls_position).expand(len(x), -1, -1)
    tokens = torch.cat([cls, tokens + position], 1)
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    last = network.blocks[-1]
    width = tokens.shape[-1]
    keys = F.linear(
        last.norm1(tokens),
        last.attn.qkv.weight[width : 2 * width],
        last.attn.qkv.bias[width : 2 * width],
    )
    return last(tokens)[:, 0], keys


@dataclass(frozen=True)
class Seen:
    """What the network and its heads make of the views; N = 2B views or windows.

    Attributes:
        keys: (N, T, D) of the views. silhouette: (N, T) logits from them.
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

    def __init__(self, config: ViTConfig, styles: int) -> None:
        super().__init__()
        width = config.embed_dim
        self.vit = config.build()
        blocks: Any = self.vit.blocks
        for block in blocks:
            # Plain attention trains 1.4 times as fast as the fused one (bf16, one CPU core).
            block.attn.fused_attn = False
        self.seal = nn.Linear(width, width, bias=False)
        self.style = nn.Linear(width, styles)
        self.palette = nn.Linear(width, LEVELS**3)
        self.silhouette = nn.Linear(width, 1)

    def forward(self, views: Tensor, windows: Tensor, corners: Tensor) -> tuple[Tensor, ...]:
        """Views (N, 3, S, S) and windows (N, 3, W, W) at corners (N, 2): the fields of `Seen`."""
        cls, keys = look(self.vit, views)
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


def dense_contrast(queries: Tensor, keys: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """How badly positions are found again by their keys: (B,) mean cross-entropy.

    Args:
        queries: (B, P, D) keys of view 1. keys: (B, T, D) of view 2, each in every position.
        targets: (B, P) int64, the position in view 2; -1 where there is none.
    """
    cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(1, 2)
    logits = (cosines / temperature).transpose(1, 2)
    losses = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    return losses.sum(1) / (targets >= 0).sum(1).clamp(min=1)


def crop_contrast(seals: Tensor, crops: Tensor, alike: Tensor, temperature: float) -> Tensor:
    """How badly views are found again by their crops among all others: (N,), both ways.

    Args:
        seals, crops: (N, D) unit vectors of views and of their crops. alike: (N, N) bool, pairs
            that look the same and so are no negatives; the diagonal is ignored.
    """
    logits = seals @ crops.T / temperature
    own = torch.eye(len(seals), dtype=torch.bool, device=seals.device)
    logits = logits.masked_fill(alike & ~own, -torch.inf)
    target = torch.arange(len(seals), device=seals.device)
    forth = F.cross_entropy(logits, target, reduction="none")
    return 0.5 * (forth + F.cross_entropy(logits.T, target, reduction="none"))


def palettes(pictures: Tensor, drawn: Tensor) -> Tensor:
    """Colour histograms of the drawn part of (B, 3, S, S) pictures: (B, LEVELS^3), summing to 1.

    Args:
        drawn: (B, S, S), the share of each pixel that belongs to the drawing.
    """
    level = ((pictures + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1)
    code = (level[:, 0] * LEVELS + level[:, 1]) * LEVELS + level[:, 2]
    counts = torch.zeros(len(pictures), LEVELS**3)
    counts.scatter_add_(1, code.flatten(1), drawn.flatten(1) + 1e-6)
    return counts / counts.sum(1, keepdim=True)


def twin_rows(pictures: Pictures) -> Tensor:
    """(N,) int64: the row of each picture's twin, or its own where it has none."""
    row_of = {key: i for i, key in enumerate(zip(pictures.subjects, pictures.styles, strict=True))}
    rows = [
        row_of.get((subject, TWINS.get(style, style)), i)
        for i, (subject, style) in enumerate(zip(pictures.subjects, pictures.styles, strict=True))
    ]
    return torch.tensor(rows)


@dataclass(frozen=True)
class Views:
    """A batch: 2B views (view 1 of each picture, then view 2), as many windows, and what they show.

    Attributes:
        views: (2B, 3, S, S) normalised. windows: (2B, 3, W, W). corners: (2B, 2) in tokens.
        positions, targets: (B, P) int64, where in view 1, and where that lies in view 2 or -1.
        cover: (2B, T), the drawn share of each patch. palette: (2B, LEVELS^3). style: (2B,) int64.
    """

    views: Tensor
    windows: Tensor
    corners: Tensor
    positions: Tensor
    targets: Tensor
    cover: Tensor
    palette: Tensor
    style: Tensor


class ViewMaker:
    """Draws batches of views from a split; everything random comes from the generator given."""

    def __init__(self, pictures: Pictures, config: ViTConfig, how: ViTTraining) -> None:
        self.pictures, self.config, self.how = pictures, config, how
        self.drawn = silhouettes(pictures.pixels)
        self.twins = twin_rows(pictures)
        known = sorted(set(pictures.styles))
        self.styles = torch.tensor([known.index(style) for style in pictures.styles])

    def make(self, rows: Tensor, generator: torch.Generator) -> Views:
        """The views of (B,) rows."""
        how, count = self.how, len(rows)
        twin = torch.rand(count, generator=generator) < how.twin_share
        others = torch.where(twin, self.twins[rows], rows)
        # A twin already looks different; a picture that is its own twin must change its colours.
        same = others == rows
        first = recolour(self.pictures.batch(rows), 0.3, generator)
        second = self.pictures.batch(others)
        sometimes = recolour(second, 0.4, generator)
        always = recolour(second, 1.0, generator)
        second = torch.where(same[:, None, None, None], always, sometimes)
        first = torch.cat([first, self.drawn[rows][:, None].float()], 1)
        second = torch.cat([second, self.drawn[others][:, None].float()], 1)

        geometry = random_geometry(count, generator)
        one, two = _warp_both(first, geometry), _warp_both(second, geometry)
        two, place = self._move(two, generator)
        both = torch.cat([one, two])
        cover = F.avg_pool2d(both[:, 3:], self.config.patch_size).flatten(1)
        positions = self._positions(cover[:count], place, generator)
        crops = _warp_both(
            torch.cat([first, second]),
            random_geometry(2 * count, generator, degrees=30, scale=(0.8, 1.7)),
        )
        windows, corners = self._windows(crops, generator)
        return Views(
            views=self._finish(both[:, :3], generator),
            windows=self._finish(windows, generator),
            corners=corners,
            positions=positions,
            targets=place.gather(1, positions),
            cover=cover,
            palette=palettes(both[:, :3], both[:, 3]),
            style=torch.cat([self.styles[rows], self.styles[others]]),
        )

    def _finish(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        return normalise(degrade(pictures, 0.4, generator), IMAGENET_MEAN, IMAGENET_STD)

    def _move(self, pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # Some views stay where they are: there, absolute position helps, as it does in guidance.
        # The others move by whole tokens; there, and in flipped ones, only what is drawn tells
        # positions.
        side, patch, reach = self.config.side, self.config.patch_size, self.how.move
        moves = torch.randint(-reach, reach + 1, (len(pictures), 2), generator=generator)
        moves = moves * (torch.rand(len(pictures), 1, generator=generator) < self.how.moved)
        flips = torch.rand(len(pictures), generator=generator) < 0.4
        grid = torch.arange(side * side).reshape(side, side)
        moved, places = [], []
        for picture, (dy, dx), flip in zip(pictures, moves.tolist(), flips.tolist(), strict=True):
            y, x = grid // side + dy, grid % side + dx
            inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
            if flip:
                x = side - 1 - x
            places.append(torch.where(inside, y * side + x, -1).flatten())
            ragged = F.pad(picture[:3], (reach * patch,) * 4, value=1.0)
            mask = F.pad(picture[3:], (reach * patch,) * 4, value=0.0)
            top, left = (reach - dy) * patch, (reach - dx) * patch
            size = self.config.img_size
            shifted = torch.cat([ragged, mask])[:, top : top + size, left : left + size]
            moved.append(shifted.flip(-1) if flip else shifted)
        return torch.stack(moved), torch.stack(places)

    def _positions(self, cover: Tensor, place: Tensor, generator: torch.Generator) -> Tensor:
        # Most patches are white paper that says nothing: draw on and right beside the drawing.
        side = self.config.side
        near = F.max_pool2d(cover.reshape(-1, 1, side, side), 3, 1, 1).flatten(1)
        weight = torch.where(near > 0.05, 1.0, 0.1).masked_fill(place < 0, 1e-4)
        return torch.multinomial(weight, self.how.positions, generator=generator)

    def _windows(self, pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # The best covered of three places each, so that few windows show paper alone.
        patch, window = self.config.patch_size, self.how.window
        count, most = len(pictures), self.config.side - window
        tried = torch.randint(0, most + 1, (count, 3, 2), generator=generator)
        cut = window * patch
        chosen, corners = [], []
        for picture, places in zip(pictures, tried.tolist(), strict=True):
            pieces = [
                picture[:, y * patch : y * patch + cut, x * patch : x * patch + cut]
                for y, x in places
            ]
            best = max(range(3), key=lambda i: float(pieces[i][3].mean()))
            chosen.append(pieces[best][:3])
            corners.append(places[best])
        return torch.stack(chosen), torch.tensor(corners)


def _warp_both(pictures: Tensor, geometry: Tensor) -> Tensor:
    # Three colours padded with white, and the silhouette as a fourth channel padded with nothing.
    flipped = torch.cat([pictures[:, :3], 1 - pictures[:, 3:]], 1)
    moved = warp(flipped, geometry)
    return torch.cat([moved[:, :3], 1 - moved[:, 3:]], 1)


def losses(seen: Seen, batch: Views, how: ViTTraining) -> dict[str, Tensor]:
    """The five losses, each a mean over the batch, unweighted."""
    count = len(batch.positions)
    width = seen.keys.shape[-1]
    queries = seen.keys[:count].gather(1, batch.positions[:, :, None].expand(-1, -1, width))
    keys = dense_contrast(queries, seen.keys[count:], batch.targets, how.key_temperature)
    overlap = torch.stack([torch.minimum(p, batch.palette).sum(1) for p in batch.palette])
    alike = (overlap > how.alike) & (batch.style[:, None] == batch.style[None])
    crops = crop_contrast(seen.seals, seen.crop_seals, alike, how.crop_temperature)
    style = F.cross_entropy(seen.style, batch.style) + F.cross_entropy(seen.crop_style, batch.style)
    # What the palette's own entropy costs is taken off, so that 0 is a perfect guess.
    entropy = -torch.special.xlogy(batch.palette, batch.palette).sum(1).mean()
    return {
        "keys": keys.mean(),
        "crops": crops.mean(),
        "style": 0.5 * style,
        "palette": F.cross_entropy(seen.palette, batch.palette) - entropy,
        "silhouette": F.binary_cross_entropy_with_logits(seen.silhouette, batch.cover.clamp(0, 1)),
    }


def look_at(vit: VisionTransformer, pictures: Pictures, rows: Tensor) -> tuple[Tensor, Tensor]:
    """CLS (N, D) and keys (N, 1 + T, D) of plain pictures, on the CPU."""
    return _look_through(vit, pictures.batch(rows))


@torch.no_grad()
def _look_through(vit: VisionTransformer, pictures: Tensor) -> tuple[Tensor, Tensor]:
    device = next(vit.parameters()).device
    parts = [
        look(vit, normalise(part.to(device), IMAGENET_MEAN, IMAGENET_STD))
        for part in torch.split(pictures, 64)
    ]
    cls, keys = zip(*parts, strict=True)
    return torch.cat(cls).cpu(), torch.cat(keys).cpu()


def style_accuracy(
    train: Tensor, train_styles: Tensor, val: Tensor, val_styles: Tensor
) -> tuple[float, float]:
    """How well CLS tells styles: (linear probe, 5 nearest neighbours by cosine), shares right.

    The probe is a ridge regression onto the styles from standardised tokens (N, D).
    """
    mean, std = train.mean(0), train.std(0) + 1e-6
    a, b = (train - mean) / std, (val - mean) / std
    a, b = F.pad(a, (0, 1), value=1.0), F.pad(b, (0, 1), value=1.0)
    wanted = F.one_hot(train_styles).float()
    ridge = 0.01 * len(a) * torch.eye(a.shape[1])
    weights = torch.linalg.solve(a.T @ a + ridge, a.T @ wanted)
    probe = ((b @ weights).argmax(1) == val_styles).float().mean()
    nearest = (F.normalize(val, dim=1) @ F.normalize(train, dim=1).T).topk(5).indices
    votes = F.one_hot(train_styles[nearest], wanted.shape[1]).sum(1).argmax(1)
    return float(probe), float((votes == val_styles).float().mean())


def position_match(one: Tensor, two: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where keys (B, T, D) of one picture find their likest in the other.

    Returns:
        Two (B, T) bool: found at the same position; at it or one of its eight neighbours.
    """
    found = (F.normalize(one, dim=-1) @ F.normalize(two, dim=-1).transpose(1, 2)).argmax(-1)
    here = torch.arange(side * side)
    far = torch.maximum((found // side - here // side).abs(), (found % side - here % side).abs())
    return far == 0, far <= 1


def self_similarity_distance(one: Tensor, two: Tensor) -> Tensor:
    """(B,) mean square difference of the cosine self-similarities of keys (B, T, D)."""
    a, b = F.normalize(one, dim=-1), F.normalize(two, dim=-1)
    return (a @ a.transpose(1, 2) - b @ b.transpose(1, 2)).pow(2).mean((1, 2))


def _apartness(one: Tensor, two: Tensor) -> float:
    pairs = self_similarity_distance(one, two).mean()
    return float(self_similarity_distance(one, two.roll(1, 0)).mean() / pairs)


def evaluate(
    vit: VisionTransformer, train: Pictures, val: Pictures, drawn: Tensor
) -> dict[str, float]:
    """The val metrics of `COLUMNS`.

    match: keys of fluent_flat find their position in fluent_3d (drawn: on the drawing alone; near:
    within one token). self_similarity: mean distance between such twins, and between other subjects
    of the two styles. shape: how many times as far apart other subjects are as pictures of one
    shape: twemoji and noto, the two aligned pairs (line: openmoji and openmoji_line), and a picture
    in other colours. cls: mean square difference between subjects of one style, and between twins.

    Args:
        drawn: (N, S, S) silhouettes of `val`; matches are also counted on drawn patches alone.
    """
    known = sorted(set(train.styles))
    few = torch.linspace(0, len(train) - 1, min(1000, len(train))).long()
    train_cls, _ = look_at(vit, train, few)
    cls, keys = look_at(vit, val, torch.arange(len(val)))
    train_styles = torch.tensor([known.index(train.styles[int(i)]) for i in few])
    styles = torch.tensor([known.index(style) for style in val.styles])
    probe, neighbours = style_accuracy(train_cls, train_styles, cls, styles)
    metrics = {"val_style_probe": probe, "val_style_5nn": neighbours}

    side = math.isqrt(keys.shape[1] - 1)
    flat, solid = _same_subjects(val, "fluent_flat", "fluent_3d")
    exact, near = position_match(keys[flat, 1:], keys[solid, 1:], side)
    cover = F.adaptive_avg_pool2d(drawn[flat][:, None].float(), side).flatten(1) > 0.5
    metrics |= {
        "val_match": float(exact.float().mean()),
        "val_match_near": float(near.float().mean()),
        "val_match_drawn": float(exact[cover].float().mean()),
        "val_match_drawn_near": float(near[cover].float().mean()),
    }
    a, b = _same_subjects(val, "twemoji", "noto")
    full, line = _same_subjects(val, "openmoji", "openmoji_line")
    other_colours = recolour(val.batch(a), 1.0, torch.Generator().manual_seed(0))
    _, recoloured = _look_through(vit, other_colours)
    metrics |= {
        "val_shape_vendors": _apartness(keys[a], keys[b]),
        "val_shape_twins": _apartness(keys[flat], keys[solid]),
        "val_shape_line": _apartness(keys[full], keys[line]),
        "val_shape_recoloured": _apartness(keys[a], recoloured),
        "val_self_similarity_twins": float(
            self_similarity_distance(keys[flat], keys[solid]).mean()
        ),
        "val_self_similarity_random": float(
            self_similarity_distance(keys[flat], keys[solid.roll(1)]).mean()
        ),
        "val_cls_same_style": float((cls[flat] - cls[flat.roll(1)]).pow(2).mean()),
        "val_cls_same_subject": float((cls[flat] - cls[solid]).pow(2).mean()),
    }
    return metrics


def _same_subjects(pictures: Pictures, one: str, two: str) -> tuple[Tensor, Tensor]:
    rows: dict[str, dict[str, int]] = {one: {}, two: {}}
    for i, (subject, style) in enumerate(zip(pictures.subjects, pictures.styles, strict=True)):
        if style in rows:
            rows[style][subject] = i
    shared = sorted(rows[one].keys() & rows[two].keys())
    return torch.tensor([rows[one][s] for s in shared]), torch.tensor(
        [rows[two][s] for s in shared]
    )


def write_keys(path: Path, vit: VisionTransformer, val: Pictures) -> None:
    """Writes a sheet of two subjects in every style.

    From above: the pictures; their keys' first three principal components (over the sheet) as
    colours; cosine of every key with that of the centre; the silhouette-like first component alone.
    """
    subjects = sorted(set(val.subjects))
    wanted = [subjects[len(subjects) // 4], subjects[len(subjects) // 2]]
    rows = torch.tensor([i for s in wanted for i, t in enumerate(val.subjects) if t == s])
    _, keys = look_at(vit, val, rows)
    keys = keys[:, 1:]
    side, size = math.isqrt(keys.shape[1]), val.pixels.shape[-1]
    flat = keys.flatten(0, 1) - keys.mean((0, 1))
    _, _, axes = torch.linalg.svd(flat, full_matrices=False)
    parts = flat @ axes[:3].T
    low, high = parts.quantile(0.02, 0), parts.quantile(0.98, 0)
    parts = ((parts - low) / (high - low) * 2 - 1).clamp(-1, 1)
    colours = parts.reshape(len(rows), side, side, 3).permute(0, 3, 1, 2)
    unit = F.normalize(keys, dim=-1)
    centre = (unit @ unit[:, side * side // 2 + side // 2, :, None]).reshape(-1, 1, side, side)
    shown = [
        colours,
        centre.clamp(-1, 1).expand(-1, 3, -1, -1),
        colours[:, :1].expand(-1, 3, -1, -1),
    ]
    write_sheet(path, [val.batch(rows), *(F.interpolate(view, size) for view in shown)])


def train_vit(
    data: str | Path,
    out: str | Path,
    config: ViTConfig | None = None,
    how: ViTTraining | None = None,
    minutes: float = 0,
    world: World | None = None,
    initial: str | None = None,
) -> Path:
    """Trains, or goes on training, the transformer; stops at `how.steps` or after `minutes`.

    Args:
        data: the indexed Parquet. out: folder for checkpoint.pt, log.csv, samples/,
            vit.safetensors (the averaged weights, float32, timm's names) and vit.json (sizes, input
            mean and std, how it was trained, val metrics).
        initial: weights to start from, see `load_initial`; None: random ones. The heads
            that are thrown away start from random ones either way.

    Returns:
        The path of the weights.

    Raises:
        UserError: no data there, or `initial` is another network or not what the run in `out`
            started from.
    """
    config, how, world, folder = (
        config or ViTConfig(),
        how or ViTTraining(),
        world or World(),
        Path(out),
    )
    train, val = load_pictures(data, "train"), load_pictures(data, "val")
    maker, val_drawn = ViewMaker(train, config, how), silhouettes(val.pixels)
    torch.manual_seed(how.seed)
    network = ViTWithHeads(config, len(set(train.styles)))
    state = load_checkpoint(folder / "checkpoint.pt")
    begun = begin(network.vit, state, initial, folder, "vit", asdict(config))
    network.to(world.device)
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=how.peak_rate,
    )
    start, spent = 0, 0.0
    if state is not None:
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = int(state["step"]), float(state["seconds"])
    model = world.wrap(network)
    pace = Pace(how.steps, minutes, "vit", world.rank, clock=world.clock)
    sums: dict[str, float] = {}
    counted = 0
    for step, save in pace.run(start):
        began = time.monotonic()
        generator = torch.Generator().manual_seed(hash((how.seed, step, world.rank)) % 2**62)
        rows = shuffled_rows(len(train), how.batch, step, how.seed, world)
        batch = maker.make(rows, generator)
        batch = Views(
            *(getattr(batch, name).to(world.device) for name in Views.__dataclass_fields__)
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, how.steps, how.peak_rate, min(100, how.steps // 10))
        with torch.autocast(torch.device(world.device).type, torch.bfloat16, enabled=how.bf16):
            seen = Seen(*model(batch.views, batch.windows, batch.corners))
        parts = losses(seen, batch, how)
        loss = torch.stack([getattr(how, name) * part for name, part in parts.items()]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 3.0)
        optimizer.step()
        update_ema(ema, network, step, how.ema)
        for name, part in {"loss": loss, **{f"loss_{k}": v for k, v in parts.items()}}.items():
            sums[name] = sums.get(name, 0.0) + float(part.detach())
        counted += 1
        spent += time.monotonic() - began
        if (step + 1) % pace.log_steps == 0 or save:
            metrics = {name: value / counted for name, value in sums.items()}
            sums, counted = {}, 0
            if save and world.rank == 0:
                metrics |= evaluate(ema.vit, train, val, val_drawn)
                write_keys(folder / "samples" / f"{step + 1:06d}.png", ema.vit, val)
                checkpoint: dict[str, Any] = {
                    "step": step + 1,
                    "seconds": spent,
                    "network": network.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "initial": begun and asdict(begun),
                }
                save_checkpoint(folder / "checkpoint.pt", checkpoint)
                record = {
                    "architecture": asdict(config),
                    "mean": IMAGENET_MEAN,
                    "std": IMAGENET_STD,
                    "initial": begun and asdict(begun),
                    "training": asdict(how),
                    "steps": step + 1,
                    "seconds": round(spent, 1),
                    "metrics": metrics,
                }
                save_weights(folder, "vit", ema.vit.state_dict(), record)
            if world.rank == 0:
                log_metrics(folder / "log.csv", COLUMNS, step + 1, metrics)
            if world.report:
                world.report(step + 1, metrics)
    return folder / "vit.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small ViT on one machine.")
    parser.add_argument("--data", required=True, help="Parquet of `dstc emoji build`")
    parser.add_argument("--out", required=True, help="folder of the run; an old one is resumed")
    parser.add_argument("--steps", type=int, default=ViTTraining.steps)
    parser.add_argument("--batch", type=int, default=ViTTraining.batch)
    parser.add_argument("--minutes", type=float, default=0, help="stop after; resume with the same")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    how = ViTTraining(steps=args.steps, batch=args.batch)
    world = World(device=args.device)
    print(train_vit(args.data, args.out, how=how, minutes=args.minutes, world=world))


if __name__ == "__main__":
    main()
