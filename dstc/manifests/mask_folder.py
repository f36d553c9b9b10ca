"""Masks that lie in a folder of their own, under the names of the contents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.ids import stem
from dstc.manifests.image_files import IMAGES, is_image
from dstc.manifests.source import NAME, Source
from dstc.store import storage, urls
from dstc.text import describe, redact


def with_masks(sources: Sequence[Source], folder: str) -> list[Source]:
    """The sources with a column `mask`: URIs of masks, null where a content has none.

    A mask has the path of its content, below this folder as that below its source, and any ending
    of an image. Of several, the one with the content's own ending is taken.

    Args:
        sources: folders, patterns or files of images. folder: of the masks, a path or URL.

    Raises:
        SettingsError: a source of another form, or with contents in the folder of the masks.
        ManifestError: no content has a mask, one has several, or storage does not answer.

    Example:
        with_masks(find_sources(["pics/"]), "masks/") gives pics/cat/1.jpg the mask masks/cat/1.png.
    """
    masks = _Masks(folder)
    contents = [name for source in sources for name in _names(source, masks)]
    found = [masks.of(name) for name in contents]
    used = {mask for mask in found if mask is not None}
    if not used:
        raise ManifestError(
            f"--masks {redact(folder)}: no content has a mask there: found {masks.names[0]!r}, and "
            f"the content {contents[0]!r} in {redact(sources[0].folder)}; expected the same names "
            "but for the ending"
        )
    missing = sum(mask is None for mask in found)
    notes = [f"{missing:,} of {len(contents):,} contents have no mask"] if missing else []
    if others := len(masks.names) - len(used):
        notes.append(f"{others:,} masks belong to no content")
    masked = [
        replace(
            source,
            read=partial(_read, source, masks),
            columns=(*(source.columns or ()), "mask"),
        )
        for source in sources
    ]
    masked[-1] = replace(masked[-1], notes=[*masked[-1].notes, *notes])
    return masked


class _Masks:
    """The masks of a folder.

    Attributes:
        root: the folder. names: of its images, relative to it, sorted.
    """

    def __init__(self, folder: str) -> None:
        self.root, self._shown = urls.folder(folder), redact(folder)
        try:
            files = storage.find_files(self.root, "")
        except OSError as error:
            raise ManifestError(f"--masks {self._shown}: {describe(error)}") from error
        root = self.root.rstrip("/") + "/"
        self.names = [file.removeprefix(root) for file in files if is_image(file)]
        if not self.names:
            raise ManifestError(
                f"--masks {self._shown}: found no image; expected a folder of masks that are named "
                "as the contents"
            )
        self._by_stem: dict[str, list[str]] = {}
        for name in self.names:
            self._by_stem.setdefault(stem(name), []).append(name)

    def of(self, content: str) -> str | None:
        """The name of a content's mask."""
        found = self._by_stem.get(stem(content), [])
        if len(found) > 1 and content not in found:
            raise ManifestError(
                f"--masks {self._shown}: found {' and '.join(found)}; expected one mask of the "
                f"content {content!r}"
            )
        return content if content in found else found[0] if found else None


def _names(source: Source, masks: _Masks) -> list[str]:
    """Names of a source's contents, relative to its folder."""
    if source.kind != IMAGES:
        raise SettingsError(
            f"--masks: found the source {redact(source.uri)} ({source.kind}); expected a folder, "
            "pattern or files of images. In a table, a column names masks: --column mask=NAME"
        )
    names = [str(name) for table in source.read() for name in table.column(NAME).to_pylist()]
    for name in names:
        if urls.resolve(name, source.folder).startswith(masks.root.rstrip("/") + "/"):
            raise SettingsError(
                f"--masks {redact(masks.root)}: found {name!r} of {redact(source.uri)} there, "
                "which would be a content; expected masks outside the source, or contents by a "
                "pattern, such as 'pics/*.png'"
            )
    return names


def _read(source: Source, masks: _Masks) -> Iterator[pa.Table]:
    for table in source.read():
        found = [masks.of(name) for name in table.column(NAME).to_pylist()]
        uris = [None if mask is None else urls.join(masks.root, mask) for mask in found]
        yield table.append_column("mask", pa.array(uris, pa.string()))
