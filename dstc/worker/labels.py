"""Labels of a content, carried over to its result: boxes, keypoints, masks.

What a cell holds is read before the content is fetched, so that a row whose labels are wrong costs
no translation.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dstc.planning.label_columns import LabelColumn
from dstc.store.cells import BadCell, is_blank
from dstc.text import redact, shortened, visible
from dstc.worker.label_values import LabelImage, Labels
from dstc.worker.row import Rejected, Row, load_file

if TYPE_CHECKING:
    from dstc_engine.placement import Placement
    from dstc_engine.request import TranslationRequest

_COCO_POINT = 3
_EXPECTED = {
    ("boxes", "coco"): "lists of x, y, width, height",
    ("boxes", "pascal"): "lists of x_min, y_min, x_max, y_max",
    ("keypoints", "coco"): "lists of x, y, visibility, x, y, visibility, ...",
    ("keypoints", "points"): "lists of points [x, y]",
    ("masks", "coco"): "for each object a list of polygons [x, y, x, y, ...]",
    ("masks", "image"): "the URI of an image",
}


def read_labels(
    columns: Sequence[LabelColumn], cells: Mapping[str, Any], place: str
) -> Labels | None:
    """The labels of a row; None where no column of labels is asked for.

    Args:
        cells: of the row, by name of column. place: names the row in errors.

    Raises:
        Rejected: with reason bad_labels.
    """
    if not columns:
        return None
    found: dict[str, Any] = {}
    for column in columns:
        try:
            value = _value_at(cells.get(column.path[0]), column.path[1:])
            if value is not None:
                found |= _READERS[column.kind](value, column.form)
        except (TypeError, ValueError, KeyError) as error:
            raise Rejected(
                "bad_labels",
                f"{place}: column {column.name!r} holds {_shown(cells.get(column.path[0]))} "
                f"({error}); expected {_EXPECTED[column.kind, column.form]}",
            ) from error
    return Labels(**found)


def carry(labels: Labels | None, placement: Placement | None) -> dict[str, Any]:
    """Fields of an `Outcome`: the labels in pixels of the result, and what fell outside of it."""
    if labels is None or placement is None:
        return {}
    fields: dict[str, Any] = {}
    if labels.boxes is not None:
        fields["result_boxes"] = [
            _carried_box(corners, placement, labels.as_coco) for corners in labels.boxes
        ]
    if labels.keypoints is not None:
        fields["result_keypoints"] = [_carried_points(o, placement) for o in labels.keypoints]
    if labels.polygons is not None:
        fields["result_masks"] = [_carried_polygons(o, placement) for o in labels.polygons]
    return fields


def with_images(
    row: Row, request: TranslationRequest, folder: str, read: Callable[[str], bytes]
) -> Row:
    """A row and what its images say that the engine has no use for.

    Args:
        request: of the row. folder: what relative URIs start at. read: brings the bytes of one.

    Raises:
        Rejected, Failed: an image of labels cannot be read.
    """
    labels = row.labels
    if labels is not None and labels.image is not None:
        pixels = load_file("masks", labels.image, folder, read, read_label_image)
        labels = replace(labels, pixels=pixels)
    of_request = {name: getattr(request, name) for name in ("note", "frame", "origin")}
    return replace(row, labels=labels, **of_request)


# -- images of labels ------------------------------------------------------------------------------


def read_label_image(data: bytes, place: str) -> LabelImage:
    """An image of labels, upright, its values untouched.

    Args:
        data: of the file. place: how errors name it.

    Raises:
        ImageError: no image that is read.
    """
    from dstc_engine.decoding.read import open_image

    with open_image(data, place, whole=True) as source:
        palette = source.image.getpalette() if source.image.mode == "P" else None
        pixels = source.upright(np.asarray(source.image))
        return LabelImage(pixels, bytes(palette) if palette else None)


def encode_label_image(labels: LabelImage, placement: Placement) -> bytes:
    """The labels of a result as a PNG: each pixel one value of the original, none in between.

    Raises:
        Rejected: with reason bad_labels, if the image has another size than the content.
    """
    from PIL import Image

    try:
        placed = np.ascontiguousarray(placement.mask_to_result(labels.pixels))
    except ValueError as error:
        raise Rejected("bad_labels", f"labels: {error}") from error
    image = Image.fromarray(placed)
    if labels.palette:
        image.putpalette(labels.palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


# -- cells -----------------------------------------------------------------------------------------


def _value_at(cell: Any, path: Sequence[str]) -> Any:
    """What lies at a path of names inside a cell: structs, lists of structs, text of JSON."""
    if isinstance(cell, BadCell):
        raise ValueError(cell.problem)
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        cell = json.loads(cell)
    if not path or cell is None:
        return cell
    if isinstance(cell, list):
        return [_value_at(entry, path) for entry in cell]
    if not isinstance(cell, dict):
        raise ValueError(f"no field {path[0]!r}")
    return _value_at(cell[path[0]], path[1:])


def _shown(cell: Any) -> str:
    return shortened(visible(redact(repr(cell))), 200)


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"found {values!r:.60}")
    if any(isinstance(value, (bool, str)) or value is None for value in values):
        raise ValueError(f"found {values!r:.60}")
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"found {values!r:.60}")
    return numbers


def _many(value: Any, depth: int) -> list[Any]:
    """A list of objects; of one alone, `depth` lists deep, a list of that."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"found {type(value).__name__}")
    inner: Any = value
    found = 0
    while isinstance(inner, (list, tuple)):
        found += 1
        inner = inner[0] if inner else None
    is_one = found == depth and inner is not None
    return [value] if is_one else list(value)


def _read_boxes(value: Any, form: str) -> dict[str, Any]:
    boxes: list[list[float] | None] = []
    for box in _many(value, 1):
        if box is None:  # of an object without one
            boxes.append(None)
            continue
        numbers = _numbers(box)
        if len(numbers) != 4:
            raise ValueError(f"found {len(numbers)} numbers")
        left, top, right, bottom = numbers
        if form == "coco":
            right, bottom = left + right, top + bottom
        if right < left or bottom < top:
            raise ValueError(f"found {box}, which ends before it begins")
        boxes.append([left, top, right, bottom])
    return {"boxes": boxes, "as_coco": form == "coco"}


def _read_keypoints(value: Any, form: str) -> dict[str, Any]:
    objects = []
    for points in _many(value, 1 if form == "coco" else 2):
        if form == "points":
            pairs = [_numbers(point) for point in points]
            if any(len(pair) != 2 for pair in pairs):
                raise ValueError(f"found {points!r:.60}")
            objects.append([number for x, y in pairs for number in (x, y, 2.0)])
            continue
        numbers = _numbers(points)
        if len(numbers) % _COCO_POINT:
            raise ValueError(f"found {len(numbers)} numbers")
        objects.append(numbers)
    return {"keypoints": objects}


def _read_masks(value: Any, form: str) -> dict[str, Any]:
    if form == "image":
        if not isinstance(value, str):
            raise ValueError(f"found {type(value).__name__}")
        return {} if is_blank(value) else {"image": value}
    objects: list[list[list[float]] | None] = []
    for polygons in _many(value, 2):
        if polygons is None or isinstance(polygons, dict):
            objects.append(None)
            continue
        found = [_numbers(polygon) for polygon in polygons]
        if any(len(polygon) % 2 for polygon in found):
            raise ValueError("found an odd number of coordinates")
        objects.append(found)
    return {"polygons": objects}


_READERS: Mapping[str, Callable[[Any, str], dict[str, Any]]] = {
    "boxes": _read_boxes,
    "keypoints": _read_keypoints,
    "masks": _read_masks,
}

# -- carried over ----------------------------------------------------------------------------------


def _carried_box(
    corners: Sequence[float] | None, placement: Placement, as_coco: bool
) -> dict[str, Any]:
    if corners is None:
        return {"box": None, "inside": None}
    placed, inside = placement.boxes_to_result([corners])
    left, top, right, bottom = placed[0].tolist()
    box = [left, top, right - left, bottom - top] if as_coco else [left, top, right, bottom]
    return {"box": box if inside[0] > 0 else None, "inside": float(inside[0])}


def _carried_points(numbers: Sequence[float], placement: Placement) -> dict[str, Any]:
    triples = np.array(numbers, np.float64).reshape(-1, _COCO_POINT)
    placed = placement.points_to_result(triples[:, :2])
    is_told = triples[:, 2] > 0
    is_inside = placement.is_inside(placed)
    carried = np.column_stack([placed, triples[:, 2]])
    carried[~(is_told & is_inside)] = 0  # as COCO has points that are not labeled
    return {
        "keypoints": carried.ravel().tolist(),
        "outside": int((is_told & ~is_inside).sum()),
    }


def _carried_polygons(
    polygons: Sequence[Sequence[float]] | None, placement: Placement
) -> dict[str, Any]:
    from dstc_engine.polygons import area, clip_polygon

    if polygons is None:
        return {"polygons": None, "inside": None}
    placed = [placement.points_to_result(polygon) for polygon in polygons]
    limits = (placement.result_width, placement.result_height)
    clipped = [clip_polygon(points, *limits) for points in placed]
    whole, kept = sum(map(area, placed)), sum(map(area, clipped))
    return {
        "polygons": [points.ravel().tolist() for points in clipped if area(points) > 0],
        "inside": min(1.0, kept / whole) if whole else 0.0,
    }
