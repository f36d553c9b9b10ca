"""Training images: one split of an indexed Parquet, of emoji or of somebody's own, in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from dstc_engine.errors import UserError

CORE_STYLES = ("twemoji", "noto", "openmoji", "openmoji_line", "fluent_flat", "fluent_3d")
COLUMNS = ("id", "subject", "name", "style", "group", "split", "png", "keywords")
"""What an indexed Parquet has; `dstc emoji build` writes more."""
OWN = b"dstc_own_images"
"""Key in the metadata of one that holds no emoji; see `dstc.manifests.training_images`."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images of one split.

    Attributes:
        pixels: (N, 3, S, S) uint8. ids, subjects, names, styles: N texts each.
        groups: N texts, the Unicode group of the subject.
        is_own: whether these are somebody's own images, and no emoji. Their subjects and names are
            their captions (an id and "" where there is none), their styles names of looks or "".
        pairs: of own images N texts; images of one pair show the same in the same place. "": none.
    """

    pixels: Tensor
    ids: list[str]
    subjects: list[str]
    names: list[str]
    styles: list[str]
    groups: list[str]
    is_own: bool = False
    pairs: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor) -> Tensor:
        """(B,) int64 to (B, 3, S, S) float32 in [-1, 1]."""
        return self.pixels[rows].float() / 127.5 - 1.0


def load_images(
    path: str | Path, split: str, styles: Sequence[str] | None = CORE_STYLES
) -> ImageSet:
    """Reads the images of a split ("train", "val" or "test") in the file's order.

    Args:
        path: the Parquet that `dstc emoji build` writes, or one of own images.
        styles: which emoji to keep; None keeps all.

    Raises:
        UserError: the file is missing, has other columns, or holds no such image.
    """
    columns = ["id", "subject", "name", "style", "group", "split", "png"]
    try:
        is_own = OWN in (pq.read_schema(path).metadata or {})
        table = pq.read_table(path, columns=[*columns, *(["pair"] if is_own else [])])
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot read training images ({error}); expected the Parquet that "
            "`dstc emoji build` writes"
        ) from error
    keep = pc.equal(table["split"], split)
    if styles is not None and not is_own:
        keep = pc.and_(keep, pc.is_in(table["style"], pa.array(list(styles))))
    table = table.filter(keep)
    if not table.num_rows:
        raise UserError(f"{path}: no image of split {split!r} and styles {styles}")
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in table["png"].to_pylist()]
    )
    return ImageSet(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        ids=table["id"].to_pylist(),
        subjects=table["subject"].to_pylist(),
        names=table["name"].to_pylist(),
        styles=table["style"].to_pylist(),
        groups=table["group"].to_pylist(),
        is_own=is_own,
        pairs=table["pair"].to_pylist() if is_own else [],
    )


def load_training(path: str | Path, every_style: bool) -> ImageSet:
    """The train split: all styles of emoji, or those of `CORE_STYLES`; see `load_images`."""
    return load_images(path, "train", None if every_style else CORE_STYLES)


def is_indexed(path: str) -> bool:
    """Whether trainings read this file as it is: a Parquet with all of `COLUMNS`."""
    try:
        return set(COLUMNS) <= set(pq.read_schema(path).names)
    except (OSError, ValueError):
        return False
