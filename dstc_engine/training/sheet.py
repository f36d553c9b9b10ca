"""Sample sheets: grids of images as one PNG, to judge a training run by eye."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dstc_engine.tensors import to_image


def write_sheet(path: Path, rows: list[Tensor], scale: int = 2, gap: int = 2) -> None:
    """Writes rows of (N, 3, S, S) images in [-1, 1] below each other, on grey."""
    size = rows[0].shape[-1] + gap
    width = max(len(row) for row in rows)
    grid = torch.zeros(3, len(rows) * size + gap, width * size + gap)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * size + gap, x * size + gap
            grid[:, top : top + size - gap, left : left + size - gap] = image
    image = Image.fromarray(to_image(grid))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
