"""Files that hold many images each: tars as `webdataset` reads them, Parquet as `datasets` does.

The bytes of every image lie in one piece, so that `byte_ranges` can name them. That is so in any
tar; in Parquet it is where nothing is compressed and no dictionary made, and images are compressed
already. The same images and rows make the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.store.cells import read_records
from dstc.store.image_type import IMAGE
from dstc.store.plain_records import extra_columns, plain_record

IMAGE_COLUMN, MASK_COLUMN = "image", "mask_image"
"""Columns of images, and of images of labels, in Parquet; each `{bytes, path}`."""

# Rows that a reader decodes together: images are large.
_GROUP_ROWS = 100
# A page is cut after so many rows or more, and holds 2 GiB at most.
_PAGE_ROWS = 8
_BLOCK = tarfile.BLOCKSIZE

Span = tuple[int, int]
"""Place of the first byte in a file, and how many there are."""


@dataclass(frozen=True)
class Member:
    """One image of a container.

    Attributes:
        key: the id of its row; "@k" after it for its further image k.
        place: of its row, among all rows. ending: of image files. image: bytes of one.
        seed: of the image. mask: bytes of a PNG of the labels on it, where it has them.
    """

    key: str
    place: int
    ending: str
    image: bytes
    seed: int | None
    mask: bytes | None = None


@dataclass(frozen=True)
class Container:
    """A container before it is written.

    Attributes:
        data: the whole file. images: where each member's image lies. masks: its mask, or None.
    """

    data: bytes
    images: Sequence[Span]
    masks: Sequence[Span | None]


def make_container(
    store: str, members: Sequence[Member], rows: pa.Table, has_masks: bool
) -> Container:
    """A container of a run's images.

    Args:
        store: "webdataset" or "parquet". members: in the order of the file. rows: of results.
        has_masks: images of the run may have labels in an image; each container then has the same
            columns.
    """
    if store == "webdataset":
        return make_tar(members, rows)
    return make_parquet(members, rows, has_masks)


def make_tar(members: Sequence[Member], rows: pa.Table) -> Container:
    """`<key>.png`, `<key>.mask.png` where there are labels, and `<key>.json`, for each image.

    A key is an id, its dots as "%2E", since what follows a dot is an ending. The JSON has the
    columns that `dstc export` keeps.

    Args:
        members: in the order of the tar. rows: of results.
    """
    columns = extra_columns(rows.schema)
    records = read_records(rows, columns, [member.place for member in members])
    files: list[tuple[str, bytes]] = []
    for member, record in zip(members, records, strict=True):
        parts = {member.ending: member.image}
        if member.mask is not None:
            parts["mask.png"] = member.mask
        about = plain_record({**record, "seed": member.seed}, columns)
        files += sample_files(member.key, parts, about).items()
    data, spans = tar_of(files)
    found = iter(spans)
    images, masks = list[Span](), list[Span | None]()
    for member in members:
        images.append(next(found))
        masks.append(next(found) if member.mask is not None else None)
        next(found)  # of its JSON
    return Container(data, images, masks)


def sample_files(
    key: str, parts: Mapping[str, bytes], about: Mapping[str, Any]
) -> dict[str, bytes]:
    """Files of one sample by their names in a tar, its JSON last.

    Args:
        key: an id, or one of its images. parts: by their endings. about: what the JSON says
            besides the key.
    """
    stem = key.replace(".", "%2E")
    text = json.dumps({"id": key, **about}, ensure_ascii=False)
    return {f"{stem}.{end}": data for end, data in {**parts, "json": text.encode()}.items()}


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file without time and owner: the same files make the same bytes."""
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def tar_of(files: Iterable[tuple[str, bytes]]) -> tuple[bytes, list[Span]]:
    """A tar of files, and where the bytes of each lie in it."""
    buffer, spans = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            add_file(tar, name, data)
            padded = -(-len(data) // _BLOCK) * _BLOCK
            spans.append((buffer.tell() - padded, len(data)))
    return buffer.getvalue(), spans


def make_parquet(members: Sequence[Member], rows: pa.Table, has_masks: bool) -> Container:
    """A row for each image: `id`, `image`, `mask_image` where rows may have one, other columns.

    The schema's metadata tell `datasets` that these are images. Of the columns that `dstc export`
    keeps, those are left out whose types not every reader knows: maps, unions, extensions.

    Args:
        members: in the order of the file. rows: of results. has_masks: there is a `mask_image`.
    """
    table = _table(members, rows, has_masks)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=_GROUP_ROWS,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        write_batch_size=_PAGE_ROWS,
    )
    data = sink.getvalue().to_pybytes()
    # Of a row group, one column lies behind the other: each is looked for by itself.
    images = _spans(data, [member.image for member in members])
    masks = _spans(data, [member.mask for member in members])
    assert None not in images, "an image that is written in one piece is found"
    return Container(data, [span for span in images if span], masks)


def _table(members: Sequence[Member], rows: pa.Table, has_masks: bool) -> pa.Table:
    def images(files: Iterable[tuple[bytes, str] | None]) -> pa.Array:
        cells = [file and {"bytes": file[0], "path": file[1]} for file in files]
        return pa.array(cells, IMAGE)

    columns: dict[str, pa.Array] = {
        "id": pa.array([member.key for member in members], pa.string()),
        IMAGE_COLUMN: images((m.image, f"{m.key}.{m.ending}") for m in members),
    }
    features = {IMAGE_COLUMN: {"_type": "Image"}}
    if has_masks:
        columns[MASK_COLUMN] = images(
            None if m.mask is None else (m.mask, f"{m.key}.png") for m in members
        )
        features[MASK_COLUMN] = {"_type": "Image"}
    places = pa.array([member.place for member in members], pa.int64())
    for name in extra_columns(rows.schema):
        column = rows.column(name)
        if pa.types.is_dictionary(column.type) and _is_plain(column.type.value_type):
            column = column.cast(column.type.value_type)
        if name not in columns and _is_plain(column.type):
            columns[name] = column.take(places)
    columns["seed"] = pa.array([member.seed for member in members], pa.int64())
    table = pa.table(columns)
    about = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": about})


_PLAIN: tuple[Callable[[pa.DataType], bool], ...] = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
    *(pa.types.is_date, pa.types.is_timestamp),
)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow takes rows of it, and all readers of Parquet know it."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_plain(field.type) for field in kind.fields)
    return any(is_kind(kind) for is_kind in _PLAIN)


def _spans(data: bytes, files: Iterable[bytes | None]) -> list[Span | None]:
    """Where files lie in the bytes, which hold them in this order."""
    spans, behind = list[Span | None](), 0
    for file in files:
        if file is None:
            spans.append(None)
            continue
        start = data.index(file, behind)
        behind = start + len(file)
        spans.append((start, len(file)))
    return spans
