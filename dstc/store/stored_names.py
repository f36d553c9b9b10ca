"""Names of images in result rows, wherever they stand: the row's own, its mask's, its samples'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from dstc.store.byte_ranges import file_of


def named_images(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the sha256 of each image that a result row names.

    Args:
        row: with `image`, `image_sha256`, and where there are, `samples`, `result_mask` and
            `result_mask_sha256`.
    """
    if row["image"] is not None:
        yield row["image"], row["image_sha256"]
    if row.get("result_mask") is not None:
        yield row["result_mask"], row["result_mask_sha256"]
    for sample in row.get("samples") or ():
        yield sample["image"], sample["image_sha256"]


def files_named(rows: pa.Table) -> set[str]:
    """Files of the run folder that result rows name, or name bytes of."""
    names = (*("image", "image_sha256", "samples"), *("result_mask", "result_mask_sha256"))
    found = rows.select([name for name in names if name in rows.schema.names]).to_pylist()
    return {file_of(name) for row in found for name, _ in named_images(row)}


def with_names(rows: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Result rows with other names of images; those that `names` does not have stay."""
    if not names:
        return rows
    for column in ("image", "result_mask"):
        found = rows.column(column).to_pylist()
        if any(name in names for name in found):
            rows = _set(rows, column, [names.get(name, name) for name in found])
    samples = rows.column("samples")
    if samples.null_count < len(samples):
        renamed = [
            row and [{**image, "image": names.get(image["image"], image["image"])} for image in row]
            for row in samples.to_pylist()
        ]
        rows = _set(rows, "samples", renamed)
    return rows


def _set(rows: pa.Table, column: str, values: list[Any]) -> pa.Table:
    place = rows.schema.get_field_index(column)
    field = rows.schema.field(place)
    return rows.set_column(place, field, pa.array(values, field.type))
