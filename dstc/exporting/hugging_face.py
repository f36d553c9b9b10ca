"""Parquet that `datasets` reads as images and classes, with a card."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.exporting.card import dataset_card
from dstc.exporting.folder import Folder
from dstc.exporting.items import Item, Items
from dstc.store.cells import texts
from dstc.store.image_type import IMAGE
from dstc.store.plain_records import extra_columns

_FILE_BYTES = 256 << 20
# Rows that a reader decodes together: images are large.
_GROUP_ROWS = 100
CONTENT, MASK = "content_image", "mask_image"


class _Split:
    """Parquet files of a split, one after the other."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema, most: int) -> None:
        self._folder, self._name, self._schema, self._most = folder, name, schema, most
        self.rows, self.bytes, self.files = 0, 0, 0
        self._held: list[dict[str, Any]] = []
        self._begin()

    def add(self, row: dict[str, Any], size: int) -> None:
        self._held.append(row)
        self.rows += 1
        self.bytes += size
        if len(self._held) >= _GROUP_ROWS:
            self._flush()
            if self._buffer.tell() > self._most:
                self.end()
                self._begin()

    def end(self) -> None:
        self._flush()
        self._writer.close()
        if self._written or not self.files:
            name = f"data/{self._name}-{self.files:05d}.parquet"
            self._folder.write(name, self._buffer.getvalue())
            self.files += 1

    def _begin(self) -> None:
        self._buffer, self._written = io.BytesIO(), 0
        self._writer = pq.ParquetWriter(self._buffer, self._schema, compression="zstd")

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
            self._written += len(self._held)
            self._held = []


def write_hugging_face(items: Items, folder: Folder, file_bytes: int = _FILE_BYTES) -> int:
    """`data/SPLIT-00000.parquet` and the card `README.md`.

    Images are `{bytes, path}` with the feature Image, labels numbers with the feature ClassLabel.
    URIs of contents and styles stay behind: they may be signed, or name folders of this machine.

    Returns:
        The number of images.
    """
    classes = items.classes()
    columns = items.run.columns()
    schema, features = _schema(columns, items, classes)
    splits: dict[str, _Split] = {}
    for item in items:
        if item.split not in splits:
            splits[item.split] = _Split(folder, item.split, schema, file_bytes)
        splits[item.split].add(_row(item, schema, features, classes), len(item.image))
    for split in splits.values():
        split.end()
    rows = {name: split.rows for name, split in splits.items()}
    card = dataset_card(items.run, items.left_out, rows, classes)
    folder.write("README.md", card.encode())
    return sum(rows.values())


def _schema(columns: pa.Schema, items: Items, classes: list[str]) -> tuple[pa.Schema, Any]:
    label = items.selection.label_column
    fields = [pa.field("id", pa.string()), pa.field("image", IMAGE)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    added = [(CONTENT, items.selection.pairs), (MASK, _has_masks(items))]
    for name in (name for name, is_there in added if is_there):
        fields.append(pa.field(name, IMAGE))
        features[name] = {"_type": "Image"}
    for name in extra_columns(columns):
        column = columns.field(name)
        if name == label and not _is_list(column.type):
            features[name] = {"names": classes, "_type": "ClassLabel"}
            column = pa.field(name, pa.int64())
        if name not in {field.name for field in fields}:
            fields.append(column.remove_metadata())
    about = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": about}), features


def _has_masks(items: Items) -> bool:
    return items.run.job.part("settings").get("masks") is not None and any(
        table.column("result_mask").null_count < table.num_rows
        for table in items.run.done(["result_mask"])
        if "result_mask" in table.schema.names
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _row(item: Item, schema: pa.Schema, features: Any, classes: list[str]) -> dict[str, Any]:
    pictures = {
        "image": (item.image, item.ending),
        CONTENT: (item.content, "png"),
        MASK: (item.mask, "png"),
    }
    row = texts({name: item.row.get(name) for name in schema.names})
    row["id"] = item.key
    for name, (data, ending) in pictures.items():
        if name in features:
            row[name] = data and {"bytes": data, "path": f"{item.key}.{ending}"}
    for name, feature in features.items():
        if feature["_type"] == "ClassLabel":
            row[name] = classes.index(str(item.label))
    return row
