"""Rows of any source as images of a training: read, fitted; what cannot be read is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from dstc.errors import ManifestError
from dstc.manifests.columns import as_known, image_columns, renamed
from dstc.manifests.find_sources import find_sources
from dstc.manifests.source import NAME
from dstc.manifests.training_split import TrainingImage
from dstc.store import urls
from dstc.store.cells import is_blank, read_records
from dstc.store.input_policy import InputPolicy
from dstc.store.inputs import read_input
from dstc.text import describe, redact, shortened
from dstc_engine.errors import UserError
from dstc_engine.image import decode, encode_png, fit

MOST_UNREAD = 0.05
"""Share of images that may be missing or damaged."""
# Tried in this order. The prompt of a row is what its result is to show, hence so late.
_CAPTIONS = ("caption", "captions", "text", "txt", "source_prompt", "prompt", "label")
_READERS = 8
_PIECE = 64  # rows whose images are read at a time: some 30 MB of photographs
_NAMED = 5  # images that a message names
_SURE = 1000  # rows after which too large a share ends the reading


@dataclass(frozen=True)
class Wanted:
    """What a training asks of its images.

    Attributes:
        data: what `find_sources` takes. size: pixels of a side. fit: "crop" or "pad".
        columns: content, caption, look, pair and split, by what the source calls them.
        captions: whether an image without a caption is of no use.
    """

    data: str
    size: int
    fit: str = "crop"
    columns: Mapping[str, str] = field(default_factory=dict)
    captions: bool = False


class TrainingRows:
    """Reads the images of a training, once.

    Example:
        rows = TrainingRows(Wanted("pics/", size=64))
        images = list(rows.read())
        print(rows.notes())
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._place = f"--data {redact(wanted.data)}"
        self._caption: str | None = None
        self._notes: list[str] = []
        self._read = self._silent = self._unread = 0
        self._named: list[str] = []

    def read(self) -> Iterator[TrainingImage]:
        """The images that can be used, in the order of the source.

        Raises:
            ManifestError: no such source, no content, no captions where they are needed, or more
                than `MOST_UNREAD` of the images cannot be read.
        """
        content = {new: old for new, old in self._wanted.columns.items() if new == "content"}
        try:
            sources = find_sources([self._wanted.data], content)
        except ManifestError as error:
            raise ManifestError(f"{self._place}: cannot be read ({error})") from error
        with ThreadPoolExecutor(_READERS) as pool, tqdm(desc="images", mininterval=5) as bar:
            for source in sources:
                policy = InputPolicy().for_manifest(source.uri)

                def load(cell: Any, folder: str = source.folder, policy: Any = policy) -> Any:
                    return _load(cell, folder, policy, self._wanted)

                for table in source.read():
                    for rows in self._pieces(table, redact(source.uri)):
                        found = pool.map(load, [row["content"] for row in rows])
                        for row, loaded in zip(rows, found, strict=True):
                            if image := self._image(row, loaded):
                                yield image
                        bar.update(len(rows))
                        self._check(_SURE)
                self._notes += source.notes
        self._check(1)

    def notes(self) -> list[str]:
        """What is to be told of the images that were read, and of those that were not."""
        notes = list(self._notes)
        if self._caption:
            notes.append(f"captions of the column {self._caption!r}")
        if self._silent:
            notes.append(f"{self._silent:,} images without a caption were left out")
        if self._unread:
            notes.append(f"{self._unread:,} images that cannot be read were left out: {self._some}")
        return notes

    @property
    def _some(self) -> str:
        more = f"; and {self._unread - _NAMED:,} more" if self._unread > _NAMED else ""
        return "; ".join(self._named) + more

    def _check(self, least: int) -> None:
        if self._unread > max(1, MOST_UNREAD * max(self._read, least)):
            raise ManifestError(
                f"{self._place}: {self._unread:,} of {self._read:,} images cannot be read; "
                f"expected at most {MOST_UNREAD:.0%}: {self._some}"
            )

    def _pieces(self, table: pa.Table, place: str) -> Iterator[list[dict[str, Any]]]:
        """The columns that are read, under their names in a training."""
        table = renamed(table, self._wanted.columns, place)
        if "content" not in image_columns(table):
            text = as_known(table.select(["content"]), place).column(0)
            table = table.set_column(table.schema.get_field_index("content"), "content", text)
        self._caption = self._caption or self._caption_column(table, place)
        known = {"content", NAME, "id", "look", "pair", "split", self._caption}
        table = table.select([name for name in table.schema.names if name in known])
        for start in range(0, len(table), _PIECE):
            yield list(read_records(table.slice(start, _PIECE)))

    def _caption_column(self, table: pa.Table, place: str) -> str | None:
        found = [name for name in _CAPTIONS if name in table.schema.names]
        for name in found:
            kind = table.schema.field(name).type
            kind = kind.value_type if pa.types.is_list(kind) else kind
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                return name
        if self._wanted.captions:
            what = f"{', '.join(found)} without words" if found else ", ".join(table.schema.names)
            raise ManifestError(
                f"{place}: CLIP learns from captions, and there are none; found {what}; expected "
                f"a column of text, {', '.join(_CAPTIONS)}, or --column caption=NAME"
            )
        return None

    def _image(self, row: dict[str, Any], loaded: tuple[bytes, str] | str) -> TrainingImage | None:
        name = _name(row, self._read)
        self._read += 1
        if isinstance(loaded, str):
            self._unread += 1
            if len(self._named) < _NAMED:
                self._named.append(f"{shortened(redact(name))}: {loaded}")
            return None
        caption = _text(row.get(self._caption or ""))
        if not caption and self._wanted.captions:
            self._silent += 1
            return None
        png, digest = loaded
        look, pair, split = (_text(row.get(column)) for column in ("look", "pair", "split"))
        return TrainingImage(png, digest, name, caption, look, pair, split)


def _load(cell: Any, folder: str, policy: InputPolicy, wanted: Wanted) -> tuple[bytes, str] | str:
    """An image as a fitted PNG and the digest of its pixels; or why it cannot be read."""
    try:
        if isinstance(cell, dict):
            cell = cell["path"] if cell["bytes"] is None else cell["bytes"]
        if not cell:
            return "no image"
        data = cell if isinstance(cell, bytes) else read_input(urls.resolve(cell, folder), policy)
        pixels = fit(decode(data), wanted.size, wanted.fit)
    except (UserError, OSError) as error:
        return describe(error)
    return encode_png(pixels), hashlib.sha256(pixels.tobytes()).hexdigest()


def _name(row: Mapping[str, Any], number: int) -> str:
    """What the source calls an image; else its number."""
    content = row["content"]
    if isinstance(content, dict):
        content = content["path"]
    names = (row.get(NAME), row.get("id"), content if isinstance(content, str) else None)
    return next((str(name) for name in names if name), f"row {number}")


def _text(value: Any) -> str:
    value = (value or [""])[0] if isinstance(value, list) else value
    return "" if value is None or is_blank(str(value)) else str(value).strip()
