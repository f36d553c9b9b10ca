"""Where the pixels of a content lie in its result, and those of the result in the content.

    placement = Placement(**row["placement"])
    corners, inside = placement.boxes_to_result([[10, 20, 110, 220]])

Coordinates are edges of pixels: the first pixel spans 0 .. 1, an image of W pixels 0 .. W. Those of
a content are of the image as it is seen, turned upright by its EXIF orientation, at the full size
of its file; `upright` and `stored` lead from and to pixels as the file stores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dstc_engine.decoding.frame import Frame
from dstc_engine.image import inner_box

Array = npt.NDArray[np.float64]
Mask = TypeVar("Mask", bound=npt.NDArray[Any])
# Of a coordinate, a rounding error beyond which a point lies outside.
_EDGE = 1e-6


@dataclass(frozen=True)
class Placement:
    """An affine map along each axis: `result = content * scale + offset`.

    Attributes:
        scale_x, scale_y: result pixels for a pixel of the content.
        offset_x, offset_y: result pixels; below 0 where the content is cropped.
        content_width, content_height: of the content's file, upright.
        result_width, result_height: of the result.
        orientation: of EXIF, 1 .. 8, by which the content was turned upright.
        fit: "crop", "pad", or "whole" where the result has the content's own size.

    Example:
        >>> wide = Placement.of(Frame(200, 100), 50, "crop")
        >>> wide.points_to_result([[100, 50], [0, 0]]).tolist()
        [[25.0, 25.0], [-25.0, 0.0]]
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    content_width: int
    content_height: int
    result_width: int
    result_height: int
    orientation: int = 1
    fit: str = "crop"

    @classmethod
    def of(cls, frame: Frame, size: int, fit: str) -> Placement:
        """The placement of a content in a square of `size` pixels, as `image.fit` makes it.

        Args:
            frame: of the content. fit: "crop", "pad" (whose padding the result lacks), or "whole"
                for a result of the size that the content was decoded with.
        """
        width, height = frame.decoded_size
        by_x = by_y = 1.0
        left = top = 0.0
        result = (width, height)
        if fit == "crop":
            side = min(width, height)
            by_x = by_y = size / side
            left, top = (width - side) / 2, (height - side) / 2
            result = (size, size)
        elif fit == "pad":
            _, _, inner_h, inner_w = inner_box(size, height, width)
            by_x, by_y = inner_w / width, inner_h / height
            result = (inner_w, inner_h)
        shift_x, shift_y = frame.shift
        return cls(
            scale_x=by_x / frame.halving,
            scale_y=by_y / frame.halving,
            offset_x=(shift_x - left) * by_x,
            offset_y=(shift_y - top) * by_y,
            content_width=frame.size[0],
            content_height=frame.size[1],
            result_width=result[0],
            result_height=result[1],
            orientation=frame.orientation,
            fit=fit,
        )

    # -- points ----------------------------------------------------------------------------------

    def points_to_result(self, points: npt.ArrayLike) -> Array:
        """(N, 2) points x, y of the content in the result; they may lie outside of it."""
        return _pairs(points) * self._scale + self._offset

    def points_to_content(self, points: npt.ArrayLike) -> Array:
        """(N, 2) points x, y of the result in the content."""
        return (_pairs(points) - self._offset) / self._scale

    def is_inside(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(N,) which points of the result, (N, 2), lie in it, its edge included."""
        found = _pairs(points)
        inside: npt.NDArray[np.bool_] = (found >= -_EDGE) & (found <= self._result_size + _EDGE)
        return inside[:, 0] & inside[:, 1]

    # -- boxes -----------------------------------------------------------------------------------

    def boxes_to_result(self, boxes: npt.ArrayLike) -> tuple[Array, Array]:
        """Boxes of the content in the result, clipped to it.

        Args:
            boxes: (N, 4) x_min, y_min, x_max, y_max.

        Returns:
            (N, 4) boxes; one wholly outside has no area. (N,) the share of each that is inside,
            0 .. 1, of its area, or of its length where it has none.
        """
        corners = _quads(boxes).reshape(-1, 2)
        placed = self.points_to_result(corners).reshape(-1, 4)
        clipped = np.clip(placed.reshape(-1, 2), 0, self._result_size).reshape(-1, 4)
        before, after = _sides(placed), _sides(clipped)
        # A line or a point has no area: along an axis without length it is inside or is not.
        is_there = (placed[:, 2:] >= 0) & (placed[:, :2] <= self._result_size)
        share = np.where(before > 0, after / np.where(before > 0, before, 1), is_there)
        return clipped, share.prod(axis=1)

    def boxes_to_content(self, boxes: npt.ArrayLike) -> Array:
        """(N, 4) boxes x_min, y_min, x_max, y_max of the result in the content."""
        return self.points_to_content(_quads(boxes).reshape(-1, 2)).reshape(-1, 4)

    # -- masks -----------------------------------------------------------------------------------

    def mask_to_result(self, mask: Mask) -> Mask:
        """A mask or map of labels of the content in the result, each pixel one value of it.

        Args:
            mask: (content_height, content_width, ...) of any type.

        Returns:
            (result_height, result_width, ...): at each pixel's middle, what lies there.

        Raises:
            ValueError: the mask has another size than the content.
        """
        _expect(mask.shape, self.content_height, self.content_width, "content")
        xs = self._at(self.result_width, self.scale_x, self.offset_x, self.content_width)
        ys = self._at(self.result_height, self.scale_y, self.offset_y, self.content_height)
        values: Any = mask
        placed: Mask = values[ys[:, None], xs[None, :]]
        return placed

    def mask_to_content(self, mask: Mask, outside: float = 0) -> Mask:
        """A mask or map of labels of the result in the content.

        Args:
            mask: (result_height, result_width, ...). outside: of what the result does not show.

        Returns:
            (content_height, content_width, ...).

        Raises:
            ValueError: the mask has another size than the result.
        """
        _expect(mask.shape, self.result_height, self.result_width, "result")
        size = (self.content_height, self.content_width, *mask.shape[2:])
        whole: Any = np.full(size, outside, mask.dtype)
        xs = (np.arange(self.content_width) + 0.5) * self.scale_x + self.offset_x
        ys = (np.arange(self.content_height) + 0.5) * self.scale_y + self.offset_y
        (in_x,) = np.nonzero((xs >= 0) & (xs < self.result_width))
        (in_y,) = np.nonzero((ys >= 0) & (ys < self.result_height))
        found = mask[ys[in_y].astype(int)[:, None], xs[in_x].astype(int)[None, :]]
        whole[in_y[:, None], in_x[None, :]] = found
        placed: Mask = whole
        return placed

    # -- EXIF ------------------------------------------------------------------------------------

    def upright(self, points: npt.ArrayLike) -> Array:
        """(N, 2) points of pixels as the content's file stores them, in the upright content."""
        found = _pairs(points)
        frame = self._stored
        if frame.is_sideways:
            found = found[:, ::-1]
        return np.where(frame.flips, self._content_size - found, found)

    def stored(self, points: npt.ArrayLike) -> Array:
        """(N, 2) points of the upright content, in pixels as its file stores them."""
        found = _pairs(points)
        frame = self._stored
        found = np.where(frame.flips, self._content_size - found, found)
        return found[:, ::-1] if frame.is_sideways else found

    @property
    def _stored(self) -> Frame:
        return Frame(0, 0, self.orientation)

    @property
    def _scale(self) -> Array:
        return np.array([self.scale_x, self.scale_y])

    @property
    def _offset(self) -> Array:
        return np.array([self.offset_x, self.offset_y])

    @property
    def _content_size(self) -> Array:
        return np.array([self.content_width, self.content_height], np.float64)

    @property
    def _result_size(self) -> Array:
        return np.array([self.result_width, self.result_height], np.float64)

    @staticmethod
    def _at(length: int, scale: float, offset: float, limit: int) -> npt.NDArray[np.int64]:
        places = np.floor((np.arange(length) + 0.5 - offset) / scale).astype(np.int64)
        return np.clip(places, 0, limit - 1)


def _pairs(points: npt.ArrayLike) -> Array:
    return np.asarray(points, np.float64).reshape(-1, 2)


def _quads(boxes: npt.ArrayLike) -> Array:
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _sides(boxes: Array) -> Array:
    return boxes[:, 2:] - boxes[:, :2]


def _expect(shape: tuple[int, ...], height: int, width: int, of: str) -> None:
    if shape[:2] != (height, width):
        raise ValueError(
            f"mask of {shape[1]} x {shape[0]} pixels; expected the {of}'s {width} x {height}"
        )
