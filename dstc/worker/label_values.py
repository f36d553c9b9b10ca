"""Labels of a row, as they were read from its cells and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LabelImage:
    """An image whose pixels are labels.

    Attributes:
        pixels: (H, W) or (H, W, C), upright. palette: of its colors, where it has one.
    """

    pixels: Any
    palette: bytes | None = None


@dataclass(frozen=True)
class Labels:
    """Labels of a row, in pixels of the content.

    Attributes:
        boxes: of each object x_min, y_min, x_max, y_max, or None.
        as_coco: they are told by width and height.
        keypoints: of each object, x, y and visibility of each point.
        polygons: of each object, its polygons; None for one that is told by run lengths.
        image: URI of labels in an image. pixels: of that, once it was read.
    """

    boxes: Sequence[Sequence[float] | None] | None = None
    as_coco: bool = True
    keypoints: Sequence[Sequence[float]] | None = None
    polygons: Sequence[Sequence[Sequence[float]] | None] | None = None
    image: str | None = None
    pixels: LabelImage | None = None
