"""Tar files as `webdataset` reads them: image, labels and JSON of an item stand together."""

from __future__ import annotations

import io
import tarfile

from dstc.exporting.folder import Folder
from dstc.exporting.items import Item, Items
from dstc.store.containers import add_file, sample_files
from dstc.store.plain_records import extra_columns, plain_record

_SHARD_BYTES = 256 << 20


class _Shards:
    """Tar files of a split, one after the other."""

    def __init__(self, folder: Folder, split: str, most: int) -> None:
        self._folder, self._split, self._most = folder, split, most
        self._number = 0
        self._begin()

    def add(self, files: dict[str, bytes]) -> None:
        """Files that stay together."""
        if self._buffer.tell() and self._buffer.tell() + sum(map(len, files.values())) > self._most:
            self.end()
            self._begin()
        for name, data in files.items():
            add_file(self._tar, name, data)

    def end(self) -> None:
        self._tar.close()
        self._folder.write(f"{self._split}-{self._number:06d}.tar", self._buffer.getvalue())
        self._number += 1

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)


def write_web_dataset(items: Items, folder: Folder, shard_bytes: int = _SHARD_BYTES) -> int:
    """`SPLIT-000000.tar`: `<key>.png`, `<key>.json`, and `<key>.cls` where there are labels.

    The class is its place in `classes.txt`. With pairs `<key>.content.png`, with labels in images
    `<key>.mask.png`. A key is an id, its dots as "%2E", since what follows a dot is an ending.

    Returns:
        The number of images.
    """
    classes = {label: place for place, label in enumerate(items.classes())}
    columns = extra_columns(items.run.columns())
    shards: dict[str, _Shards] = {}
    written = 0
    for item in items:
        if item.split not in shards:
            shards[item.split] = _Shards(folder, item.split, shard_bytes)
        shards[item.split].add(_files(item, columns, classes))
        written += 1
    for shard in shards.values():
        shard.end()
    if classes:
        folder.write("classes.txt", "".join(f"{label}\n" for label in classes).encode())
    return written


def _files(item: Item, columns: list[str], classes: dict[str, int]) -> dict[str, bytes]:
    parts = {item.ending: item.image}
    if isinstance(item.label, str):
        parts["cls"] = str(classes[item.label]).encode()
    if item.content is not None:
        parts["content.png"] = item.content
    if item.mask is not None:
        parts["mask.png"] = item.mask
    return sample_files(item.key, parts, plain_record(item.row, columns))
