"""What a reader of another form gives: its rows in tables, with images by URI or as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

# Rows of a table that a reader gives at once, where they hold no images.
CHUNK_ROWS = 4096
# And where they do: some 30 MB of photographs.
CHUNK_IMAGES = 64
# Column in which readers give the name of a row's image, or whatever else it is known by.
NAME = "name"


@dataclass(frozen=True)
class Source:
    """Rows in a form that is no manifest yet.

    Attributes:
        uri: names it in errors, absolute. kind: for people, such as "a folder of images".
        folder: what relative URIs in its rows start at.
        read: gives the rows from the first on, each time it is called; a column of structs
            `{bytes, path}` holds images. Tables may differ in their columns and types.
        columns: names that all rows have, where that is known before they are read.
        notes: what was left out, and what was assumed; more may come while it is read.
    """

    uri: str
    kind: str
    folder: str
    read: Callable[[], Iterator[pa.Table]]
    columns: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def is_image_type(kind: pa.DataType) -> bool:
    """Whether a column of this type holds images as Hugging Face writes them: `{bytes, path}`."""
    if not pa.types.is_struct(kind) or {field.name for field in kind.fields} != {"bytes", "path"}:
        return False
    data = kind.field("bytes").type
    return bool(pa.types.is_binary(data) or pa.types.is_large_binary(data))


def is_bytes_type(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes, which may be those of images."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
