"""Which images of a training validate: as the data say, else by a hash of the content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

VAL_SHARE = 0.1
"""Share of images that validate where the data name none."""
MOST_VAL = 500
"""Images for validation; more would tell the same and take longer than the training."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class TrainingImage:
    """One image of a training.

    Attributes:
        png: fitted. digest: of its pixels. name: what the source calls it.
        caption, look, pair: "" where there is none; see `dstc_engine.training.images.ImageSet`.
        split: as the source calls it; after `parted`, "train" or "val".
    """

    png: bytes
    digest: str
    name: str
    caption: str = ""
    look: str = ""
    pair: str = ""
    split: str = ""

    @property
    def position(self) -> float:
        """0 .. 1, by which images are drawn; equal ones, and those of a pair, have the same."""
        drawn = hashlib.sha256((self.pair or self.digest).encode()).digest()
        return int.from_bytes(drawn[:8], "big") / 2**64


def parted(images: Sequence[TrainingImage]) -> tuple[list[TrainingImage], list[str]]:
    """The images with their split, in the same order, and what is to be told of it.

    Those of a test split are left out. Where none is said to validate, a tenth is drawn by its
    pixels alone: more images never move another to training from validation while there are fewer
    than `MOST_VAL`. Of many for validation, the first ones by the same hash are taken.
    """
    splits = [_SPLITS.get(image.split.lower(), "") for image in images]
    both = zip(images, splits, strict=True)
    kept = [(image, split) for image, split in both if split != "test"]
    notes = []
    if left := len(images) - len(kept):
        notes.append(f"{left:,} images of the test split were left out")
    is_said = any(split == "val" for _, split in kept)
    able = sorted(image.position for image, split in kept if split == "val" or not is_said)
    if not is_said:  # one at least: the first, with whatever equals it
        able = [position for position in able if position < VAL_SHARE] or able[:1]
    last = able[:MOST_VAL][-1] if able else -1.0
    found = []
    for image, split in kept:
        if split == "val" and image.position > last:
            continue
        is_val = split == "val" or (not is_said and image.position <= last)
        found.append(replace(image, split="val" if is_val else "train"))
    if left := len(kept) - len(found):
        notes.append(f"{left:,} images of the validation split were left out")
    return found, notes
