"""Batches that the small ViT is trained on: two views of each image, and windows of other crops.

B images, T patch tokens, K of them kept, P sampled positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.training.images import ImageSet
from tiny64.views import (
    degrade,
    normalize,
    random_geometry,
    recolor,
    silhouettes,
    warp,
)
from tiny64.vit import IMAGENET_MEAN, IMAGENET_STD, LEVELS, ViTConfig, ViTTraining

TWINS = {
    "fluent_flat": "fluent_3d",
    "fluent_3d": "fluent_flat",
    "openmoji": "openmoji_line",
    "openmoji_line": "openmoji",
}
"""Styles whose drawings of a subject lie on top of each other (silhouette IoU 0.97 and 0.89)."""


def palettes(images: Tensor, drawn: Tensor) -> Tensor:
    """Colour histograms of the drawn part of (B, 3, S, S) images: (B, LEVELS^3), summing to 1.

    Args:
        drawn: (B, S, S), the share of each pixel that belongs to the drawing.
    """
    level = ((images + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1)
    code = (level[:, 0] * LEVELS + level[:, 1]) * LEVELS + level[:, 2]
    counts = torch.zeros(len(images), LEVELS**3)
    counts.scatter_add_(1, code.flatten(1), drawn.flatten(1) + 1e-6)
    return counts / counts.sum(1, keepdim=True)


def twin_rows(images: ImageSet) -> Tensor:
    """(N,) int64: the row of each image's twin, or its own where it has none.

    Of own images it is the next one of the pair, and of the last the first.
    """
    if images.is_own:
        of_pair: dict[str, list[int]] = {}
        for row, pair in enumerate(images.pairs):
            of_pair.setdefault(pair, []).append(row)
        of_pair.pop("", None)
        next_of = {
            row: following
            for members in of_pair.values()
            for row, following in zip(members, members[1:] + members[:1], strict=True)
        }
        return torch.tensor([next_of.get(row, row) for row in range(len(images))])
    row_of = {key: i for i, key in enumerate(zip(images.subjects, images.styles, strict=True))}
    rows = [
        row_of.get((subject, TWINS.get(style, style)), i)
        for i, (subject, style) in enumerate(zip(images.subjects, images.styles, strict=True))
    ]
    return torch.tensor(rows)


@dataclass(frozen=True)
class Views:
    """A batch: 2B views (view 1 of each image, then view 2), as many windows, and what they show.

    Attributes:
        views: (2B, 3, S, S) normalised. windows: (2B, 3, W, W). corners: (2B, 2) in tokens.
        kept: (2B, K) int64, the tokens that are shown, in order.
        positions, targets: (B, P) int64, where in view 1, and where that lies in view 2 or -1;
            counted among the tokens kept.
        cover: (2B, K), the drawn share of each patch that is kept.
        palette: (2B, LEVELS^3). style: (2B,) int64.
    """

    views: Tensor
    windows: Tensor
    corners: Tensor
    kept: Tensor
    positions: Tensor
    targets: Tensor
    cover: Tensor
    palette: Tensor
    style: Tensor


class ViewMaker:
    """Draws batches of views from a split; everything random comes from the generator given."""

    def __init__(self, images: ImageSet, config: ViTConfig, how: ViTTraining) -> None:
        self.images, self.config, self.how = images, config, how
        self.drawn = silhouettes(images.pixels)
        self.twins = twin_rows(images)
        known = sorted(set(images.styles))
        self.styles = torch.tensor([known.index(style) for style in images.styles])

    def make(self, rows: Tensor, generator: torch.Generator, token_drop: float = 0.0) -> Views:
        """The views of (B,) rows; a share of their tokens is dropped."""
        how, count = self.how, len(rows)
        twin = torch.rand(count, generator=generator) < how.twin_share
        others = torch.where(twin, self.twins[rows], rows)
        # A twin already looks different; an image that is its own twin must change its colours.
        same = others == rows
        first = recolor(self.images.batch(rows), 0.3, generator)
        second = self.images.batch(others)
        sometimes = recolor(second, 0.4, generator)
        always = recolor(second, 1.0, generator)
        second = torch.where(same[:, None, None, None], always, sometimes)
        first = torch.cat([first, self.drawn[rows][:, None].float()], 1)
        second = torch.cat([second, self.drawn[others][:, None].float()], 1)

        geometry = random_geometry(count, generator)
        one, two = _warp_both(first, geometry), _warp_both(second, geometry)
        two, place = self._move(two, generator)
        both = torch.cat([one, two])
        cover = F.avg_pool2d(both[:, 3:], self.config.patch_size).flatten(1)
        positions = self._positions(cover[:count], place, generator)
        targets = place.gather(1, positions)
        kept, number = self._keep(positions, targets, token_drop, generator)
        crops = _warp_both(
            torch.cat([first, second]),
            random_geometry(2 * count, generator, degrees=30, scale=(0.8, 1.7)),
        )
        windows, corners = self._windows(crops, generator)
        return Views(
            views=self._finish(both[:, :3], generator),
            windows=self._finish(windows, generator),
            corners=corners,
            kept=kept,
            positions=number[:count].gather(1, positions),
            targets=number[count:].gather(1, targets.clamp(min=0)).where(targets >= 0, -1),
            cover=cover.gather(1, kept),
            palette=palettes(both[:, :3], both[:, 3]),
            style=torch.cat([self.styles[rows], self.styles[others]]),
        )

    def _keep(
        self, positions: Tensor, targets: Tensor, token_drop: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        # The tokens (2B, K) that are shown, and each token's number (2B, T) among them, or -1.
        # What the dense contrast asks for is always there: positions of view 1, their targets in
        # view 2. The rest is drawn.
        count, tokens = len(positions), self.config.side**2
        if not token_drop:
            every = torch.arange(tokens).expand(2 * count, -1)
            return every, every
        most = max(round((1 - token_drop) * tokens), positions.shape[1])
        asked = torch.zeros(2 * count, tokens + 1)  # the last is for targets that are outside
        asked[:count].scatter_(1, positions, 2.0)
        asked[count:].scatter_(1, targets.where(targets >= 0, tokens), 2.0)
        order = asked[:, :-1] + torch.rand(2 * count, tokens, generator=generator)
        kept = order.topk(most).indices.sort().values
        number = torch.full((2 * count, tokens), -1)
        return kept, number.scatter(1, kept, torch.arange(most).expand(2 * count, -1))

    def _finish(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return normalize(degrade(images, 0.4, generator), IMAGENET_MEAN, IMAGENET_STD)

    def _move(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # Some views stay where they are: there, absolute position helps, as it does in guidance.
        # The others move by whole tokens; there, and in flipped ones, only what is drawn tells
        # positions.
        side, patch, reach = self.config.side, self.config.patch_size, self.how.move
        moves = torch.randint(-reach, reach + 1, (len(images), 2), generator=generator)
        moves = moves * (torch.rand(len(images), 1, generator=generator) < self.how.moved)
        flips = torch.rand(len(images), generator=generator) < 0.4
        grid = torch.arange(side * side).reshape(side, side)
        moved, places = [], []
        for image, (dy, dx), flip in zip(images, moves.tolist(), flips.tolist(), strict=True):
            y, x = grid // side + dy, grid % side + dx
            inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
            if flip:
                x = side - 1 - x
            places.append(torch.where(inside, y * side + x, -1).flatten())
            ragged = F.pad(image[:3], (reach * patch,) * 4, value=1.0)
            mask = F.pad(image[3:], (reach * patch,) * 4, value=0.0)
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

    def _windows(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # The best covered of three places each, so that few windows show paper alone.
        patch, window = self.config.patch_size, self.how.window
        count, most = len(images), self.config.side - window
        tried = torch.randint(0, most + 1, (count, 3, 2), generator=generator)
        cut = window * patch
        chosen, corners = [], []
        for image, places in zip(images, tried.tolist(), strict=True):
            pieces = [
                image[:, y * patch : y * patch + cut, x * patch : x * patch + cut]
                for y, x in places
            ]
            best = max(range(3), key=lambda i: float(pieces[i][3].mean()))
            chosen.append(pieces[best][:3])
            corners.append(places[best])
        return torch.stack(chosen), torch.tensor(corners)


def _warp_both(images: Tensor, geometry: Tensor) -> Tensor:
    # Three colours padded with white, and the silhouette as a fourth channel padded with nothing.
    flipped = torch.cat([images[:, :3], 1 - images[:, 3:]], 1)
    moved = warp(flipped, geometry)
    return torch.cat([moved[:, :3], 1 - moved[:, 3:]], 1)
