"""Images that come as bytes, written once beside the manifest, so that rows are plain URIs.

A reference into a container would save the copy and cost more: Parquet has no way to one cell, so
each of the row's readers (the job, its retries, the report, the evaluation, and every other tool)
would decode a row group for it. The name is made of the bytes: the same image is one file, and
another build writes the same files again.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from dstc.errors import OutputError
from dstc.manifests.source import NAME, is_bytes_type
from dstc.store import storage, urls
from dstc.store.retries import STEADY
from dstc.text import describe, redact

# Each waits for storage; 64 images of a chunk are some 30 MB.
_WRITERS = 16
_HEADS = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"BM", "bmp"),
)


class ImageStore:
    """Writes images of tables, and puts their URIs in the place of the bytes.

    Args:
        folder: where they go.

    Attributes:
        images: cells that held an image so far.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._written: set[bytes] = set()
        self.images = 0

    @property
    def files(self) -> int:
        """Files written so far: images that are the same are one."""
        return len(self._written)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def written(self, table: pa.Table, columns: Iterable[str], source_folder: str) -> pa.Table:
        """The table with URIs in these columns, and `name` from the first one's paths if it has
        none of its own.

        Args:
            table: rows. columns: of `{bytes, path}`, or of bytes.
            source_folder: what a path without bytes is relative to.

        Raises:
            OutputError: storage takes no more.
        """
        for column in columns:
            place = table.schema.get_field_index(column)
            cells = list(_cells(table.column(place)))
            found = list(self._pool.map(self._write, [data for data, _ in cells]))
            self.images += sum(uri is not None for uri in found)
            uris = [
                uri or (path and urls.resolve(path, source_folder))
                for uri, (_, path) in zip(found, cells, strict=True)
            ]
            table = table.set_column(place, column, pa.array(uris, pa.string()))
            if column == "content" and NAME not in table.schema.names:
                names = [posixpath.basename(path) if path else None for _, path in cells]
                table = table.append_column(NAME, pa.array(names, pa.string()))
        return table

    def _write(self, data: bytes | None) -> str | None:
        if data is None:
            return None
        digest = hashlib.sha256(data)
        name = digest.hexdigest()
        # 128 of its bits; two hex digits spread the keys, and keep folders of a million small.
        path = f"{name[:2]}/{name[2:32]}.{ending(data)}"
        uri = urls.join(self._folder, path)
        if digest.digest()[:16] not in self._written:
            try:
                storage.write_bytes(uri, data, STEADY)
            except OSError as error:
                raise OutputError(
                    f"{redact(self._folder)}: images cannot be written: {describe(error)}"
                ) from error
            self._written.add(digest.digest()[:16])
        return uri


def _cells(column: pa.ChunkedArray) -> Iterator[tuple[bytes | None, str | None]]:
    for cell in column:
        value = cell.as_py()
        if is_bytes_type(column.type):
            yield value, None
        elif value is None:
            yield None, None
        else:
            yield value["bytes"], value["path"]


def ending(data: bytes) -> str:
    """The usual ending for an image of these bytes; "bin" for what is none."""
    for head, name in _HEADS:
        if data.startswith(head):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "heic"
    if data[:1] == b"P" and data[1:2] in b"123456f":
        return "pnm"
    return "bin"
