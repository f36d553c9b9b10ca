"""COCO: images with their objects (boxes, categories, outlines), captions, and masks of them.

Read by `pycocotools`. The JSON is one object, so all of it is in memory: 450 MB of it, the 860
thousand objects of COCO 2017, are some 3 GB.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.optional import load
from dstc.manifests.source import CHUNK_IMAGES, CHUNK_ROWS, NAME, Source
from dstc.store import storage, urls
from dstc.store.image_type import IMAGE
from dstc.text import describe, redact

EVERYTHING = "all"
_LOOKED_FOR = 20  # images: where none of them is there, the folder is wrong
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])


def is_coco(found: Any) -> bool:
    """Whether a JSON document has the two lists that COCO has."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("images"), list)
        and (isinstance(found.get("annotations"), list))
    )


def coco_file(
    uri: str, document: dict[str, Any], images: str | None = None, masks: Sequence[str] = ()
) -> Source:
    """One row for each image, with its objects as lists of equal lengths.

    Columns: `boxes` (x, y, width, height in pixels of the content), `categories` (names),
    `polygons` (flat x, y lists), `rles` (compressed, where an object has no polygons), `areas`,
    `crowd`, `annotation_ids`; `captions`; and of the image `image_id`, `width`, `height`.

    Args:
        uri: of the JSON. document: what is in it.
        images: folder of the images; that of the JSON by default.
        masks: categories, or "all": writes a mask for each image, white where their objects are.

    Raises:
        SettingsError: `pycocotools` is not installed, or there is no such category.
        ManifestError: no COCO that can be read, or its images lie elsewhere.
    """
    coco_module = load("pycocotools.coco", "coco", "COCO")
    mask_module = load("pycocotools.mask", "coco", "COCO")
    shown = redact(uri)
    coco = coco_module.COCO()
    coco.dataset = document
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how far it is
            coco.createIndex()
        names = {key: str(value["name"]) for key, value in coco.cats.items()}
    except (KeyError, TypeError) as error:
        raise ManifestError(f"{shown}: not COCO: {describe(error)}") from error
    for name in masks:
        if name != EVERYTHING and name not in names.values():
            raise SettingsError(
                f"--mask-of {name}: there is no such category; found "
                + ", ".join(sorted(names.values()))
            )
    folder = urls.folder(images) if images else urls.parent(uri)
    ids = list(coco.imgs)
    first = [str(coco.imgs[key].get("file_name", "")) for key in ids[:_LOOKED_FOR]]
    if first and not any(storage.exists(urls.resolve(name, folder)) for name in first):
        raise ManifestError(
            f"{shown}: its first images, such as {first[0]!r}, are not in {redact(folder)}; "
            "expected --images DIR, the folder that their names start at"
        )

    def read() -> Iterator[pa.Table]:
        step = CHUNK_IMAGES if masks else CHUNK_ROWS
        for start in range(0, len(ids), step):
            try:
                yield _table(coco, mask_module, ids[start : start + step], names, masks)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ManifestError(
                    f"{shown}: images {ids[start]} and on: not COCO: {describe(error)}"
                ) from error

    return Source(uri, "COCO", folder, read)


def read_json(uri: str) -> Any:
    """The JSON document of a file, which is read whole.

    Raises:
        ManifestError: it is none.
    """
    with storage.open_input(uri) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ManifestError(f"{redact(uri)}: not JSON: {error}") from error


def _table(
    coco: Any, mask_module: Any, ids: Sequence[Any], names: dict[int, str], masks: Sequence[str]
) -> pa.Table:
    rows = [(coco.imgs[key], coco.imgToAnns.get(key, [])) for key in ids]
    objects = [[a for a in found if "bbox" in a or "segmentation" in a] for _, found in rows]
    captions = [[a["caption"] for a in found if "caption" in a] for _, found in rows]
    columns: dict[str, pa.Array] = {
        "content": pa.array([image["file_name"] for image, _ in rows], pa.string()),
        NAME: pa.array([image["file_name"] for image, _ in rows], pa.string()),
        "image_id": pa.array([image["id"] for image, _ in rows]),
        "width": pa.array([image.get("width") for image, _ in rows], pa.int32()),
        "height": pa.array([image.get("height") for image, _ in rows], pa.int32()),
    }
    if names:
        columns |= {
            "boxes": _lists(objects, _box, pa.list_(pa.float64())),
            "categories": _lists(objects, lambda a: names[a["category_id"]], pa.string()),
            "polygons": _lists(objects, _polygons, pa.list_(pa.list_(pa.float64()))),
            "rles": _lists(objects, lambda a: _rle(coco, a), _RLE),
            "areas": _lists(objects, lambda a: a.get("area"), pa.float64()),
            "crowd": _lists(objects, lambda a: bool(a.get("iscrowd")), pa.bool_()),
            "annotation_ids": _lists(objects, lambda a: a.get("id"), pa.int64()),
        }
    if any(captions):
        columns["captions"] = pa.array(captions, pa.list_(pa.string()))
        columns["caption"] = pa.array([next(iter(some), None) for some in captions], pa.string())
    if masks:
        found = [
            _mask(coco, mask_module, image, some, names, masks)
            for (image, _), some in zip(rows, objects, strict=True)
        ]
        columns["mask"] = pa.array(found, IMAGE)
    return pa.table(columns)


def _lists(objects: Sequence[Sequence[Any]], value: Any, kind: pa.DataType) -> pa.Array:
    return pa.array([[value(one) for one in some] for some in objects], pa.list_(kind))


def _box(annotation: dict[str, Any]) -> list[float] | None:
    box = annotation.get("bbox")
    return [float(number) for number in box] if box else None


def _polygons(annotation: dict[str, Any]) -> list[list[float]] | None:
    outline = annotation.get("segmentation")
    return [list(map(float, part)) for part in outline] if isinstance(outline, list) else None


def _rle(coco: Any, annotation: dict[str, Any]) -> dict[str, Any] | None:
    if not isinstance(annotation.get("segmentation"), dict):
        return None
    found = coco.annToRLE(annotation)
    counts = found["counts"]
    return {
        "size": found["size"],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def _mask(
    coco: Any,
    mask_module: Any,
    image: dict[str, Any],
    objects: Sequence[dict[str, Any]],
    names: dict[int, str],
    wanted: Sequence[str],
) -> dict[str, Any]:
    """White where an object of these categories is, at the size of the image."""
    chosen = [
        coco.annToRLE(one)
        for one in objects
        if one.get("segmentation") and (EVERYTHING in wanted or names[one["category_id"]] in wanted)
    ]
    pixels = np.zeros((image["height"], image["width"]), np.uint8)
    if chosen:
        pixels = mask_module.decode(mask_module.merge(chosen))
    buffer = io.BytesIO()
    Image.fromarray(pixels * 255).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}
