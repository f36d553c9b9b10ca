"""COCO: images, and the objects in them by the labels that were carried over."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from dstc.errors import SettingsError
from dstc.exporting.folder import Folder
from dstc.exporting.items import Item, Items
from dstc.store.plain_records import extra_columns, plain_record
from dstc_engine.polygons import area

_ANY = "object"
# Corners of a polygon, each of two numbers, below which it is none.
_LEAST_POLYGON = 6


def write_coco(items: Items, folder: Folder) -> int:
    """`images/<id>.png` and `annotations.json`, or `annotations_SPLIT.json` for each split.

    Objects are the entries of `result_boxes`, `result_masks` and `result_keypoints`; those wholly
    outside are left out. `--label-column` names them, one for the row or a list, one for each.
    With pairs, contents are below `content/`, with labels in images those below `masks/`.

    Returns:
        The number of images.

    Raises:
        SettingsError: rows have other numbers of labels than of objects.
    """
    classes = items.classes() or [_ANY]
    categories = {label: number + 1 for number, label in enumerate(classes)}
    as_corners = str(items.run.job.part("settings").get("boxes")).endswith(":pascal")
    columns = extra_columns(items.run.columns())
    columns = [name for name in columns if not name.startswith("result_")]
    splits: dict[str, dict[str, list[dict[str, Any]]]] = {}
    points = 0
    for item in items:
        found = splits.setdefault(item.split, {"images": [], "annotations": []})
        name = f"{item.key}.{item.ending}"
        folder.write(f"images/{name}", item.image)
        if item.content is not None:
            folder.write(f"content/{item.key}.png", item.content)
        if item.mask is not None:
            folder.write(f"masks/{item.key}.png", item.mask)
        number = len(found["images"]) + 1
        width, height = Image.open(io.BytesIO(item.image)).size
        record = {"id": number, "file_name": name, "width": width, "height": height}
        found["images"].append({**plain_record(item.row, columns), **record})
        for annotation in _objects(item, categories, as_corners):
            points = max(points, len(annotation.get("keypoints", ())) // 3)
            number_of = len(found["annotations"]) + 1
            found["annotations"].append({"id": number_of, "image_id": number, **annotation})
    of_points = {"keypoints": [f"point_{n + 1}" for n in range(points)], "skeleton": []}
    for split, found in splits.items():
        name = f"annotations_{split}.json" if items.selection.split_column else "annotations.json"
        about = {
            "description": f"Run {items.run.job.text('run_id')} of dstc",
            "version": "1.0",
        }
        kinds = [
            {"id": number, "name": label, "supercategory": "", **(of_points if points else {})}
            for label, number in categories.items()
        ]
        folder.write_json(name, {"info": about, "licenses": [], **found, "categories": kinds})
    return sum(len(found["images"]) for found in splits.values())


def _objects(item: Item, categories: Mapping[str, int], as_corners: bool) -> list[dict[str, Any]]:
    row = item.row
    boxes, masks = row.get("result_boxes") or [], row.get("result_masks") or []
    keypoints = row.get("result_keypoints") or []
    count = max(len(boxes), len(masks), len(keypoints))
    label = item.label if item.label is not None else _ANY
    labels = [label] * count if isinstance(label, str) else label
    if len(labels) != count:
        raise SettingsError(
            f"--label-column: row {row['id']!r} has {len(labels)} labels for {count} objects; "
            "expected one for each, or one for the row"
        )
    found = []
    for place in range(count):
        box, mask, points = (
            entries[place] if place < len(entries) else {} for entries in (boxes, masks, keypoints)
        )
        annotation = _object(box, mask, points, as_corners)
        if annotation is not None:
            found.append({"category_id": categories[labels[place]], **annotation})
    return found


def _object(
    box: Mapping[str, Any], mask: Mapping[str, Any], points: Mapping[str, Any], as_corners: bool
) -> dict[str, Any] | None:
    """What COCO says of an object; None where nothing of it is inside."""
    polygons = [p for p in mask.get("polygons") or [] if len(p) >= _LEAST_POLYGON]
    triples = np.array(points.get("keypoints") or [], np.float64).reshape(-1, 3)
    seen = triples[triples[:, 2] > 0, :2]
    corners: Any = box.get("box")
    if corners is not None and as_corners:
        left, top, right, bottom = corners
        corners = [left, top, right - left, bottom - top]
    if corners is None and box.get("inside") != 0:
        spread = [np.array(p).reshape(-1, 2) for p in polygons] + ([seen] if len(seen) else [])
        if spread:
            low, high = np.concatenate(spread).min(axis=0), np.concatenate(spread).max(axis=0)
            corners = [*low.tolist(), *(high - low).tolist()]
    if corners is None:
        return None
    size = sum(area(np.array(p).reshape(-1, 2)) for p in polygons)
    annotation = {
        "bbox": list(corners),
        "area": size or corners[2] * corners[3],
        "iscrowd": 0,
        "segmentation": polygons,
    }
    shares = [s for s in (box.get("inside"), mask.get("inside")) if s is not None]
    if shares:
        annotation["inside"] = min(shares)
    if len(triples):
        annotation |= {"keypoints": triples.ravel().tolist(), "num_keypoints": len(seen)}
    return annotation
