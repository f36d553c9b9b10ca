"""Images in folders: by folder, by pattern, or one by one; folders as labels (ImageFolder)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

import pyarrow as pa

from dstc.errors import ManifestError
from dstc.manifests.source import CHUNK_ROWS, NAME, Source
from dstc.store import storage, urls
from dstc.store.manifest_files import folder_by_name
from dstc.text import redact

ENDINGS = frozenset(
    ".png .jpg .jpeg .jfif .webp .tif .tiff .avif .gif .bmp .pbm .pgm .ppm .pnm .pfm .heic .heif"
    "".split()
)
IMAGES = "images"
"""The kind of sources whose every file is a content, named relative to the source's folder."""
# Folders of these names at the top are parts of a data set, and the classes lie below.
_SPLITS = frozenset("train training val valid validation dev test testing".split())


def is_image(name: str) -> bool:
    """Whether the name ends as those of images that are decoded."""
    return posixpath.splitext(name)[1].lower() in ENDINGS


def images_of_folder(folder: str) -> Source:
    """All images of a folder and of those in it, but of runs that lie there.

    Raises:
        ManifestError: there are none.
    """
    folder = urls.folder(folder)
    files = storage.find_files(folder, "")
    names = [file.removeprefix(folder.rstrip("/") + "/") for file in files]
    runs = _runs(names)
    return _source(folder, folder, [name for name in names if not name.startswith(runs)])


def _runs(names: Sequence[str]) -> tuple[str, ...]:
    """Folders of runs among files: what was made of images is none of them."""
    known = set(names)
    results = {name.rpartition("results/part-")[0] for name in names if "results/part-" in name}
    return tuple(folder for folder in results if folder and folder + "job.json" in known)


def images_of_pattern(pattern: str) -> Source:
    """All images that a pattern matches, names relative to the folder before its first mark.

    Raises:
        ManifestError: there are none.
    """
    root = folder_by_name(urls.absolute(pattern))
    files = storage.glob_files(urls.absolute(pattern))
    names = [file.removeprefix(root.rstrip("/") + "/") for file in files]
    return _source(pattern, root, names)


def images_by_name(files: Sequence[str]) -> Source:
    """These images, names relative to the folder that holds them all."""
    files = [urls.absolute(file) for file in files]
    parents = {urls.parent(file) for file in files}
    root = _common_folder(parents)
    names = [file.removeprefix(root.rstrip("/") + "/") for file in files]
    return _source(root, root, names)


def find_images(text: str) -> list[str]:
    """URIs of the images that a file, a folder or a pattern names, in the order of their names.

    Raises:
        ManifestError: there are none.
    """
    uri = urls.absolute(text)
    if storage.is_folder(uri):
        source = images_of_folder(uri)
    elif storage.exists(uri):
        return [uri]
    else:
        source = images_of_pattern(uri)
    return [
        urls.resolve(name, source.folder)
        for table in source.read()
        for name in table.column(NAME).to_pylist()
    ]


def _common_folder(folders: set[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared) or "/"


def _source(uri: str, root: str, names: Sequence[str]) -> Source:
    images = [name for name in names if is_image(name)]
    if not images:
        found = f"{len(names):,} files and no image" if names else "no file"
        raise ManifestError(
            f"{redact(uri)}: found {found}; expected names that end in .png, .jpg, .webp and such"
        )
    others = len(names) - len(images)
    splits, levels = _levels(images)
    columns = ("content", NAME, *(["split"] if splits else []), *(["label"] if levels else []))

    def read() -> Iterator[pa.Table]:
        for start in range(0, len(images), CHUNK_ROWS):
            some = images[start : start + CHUNK_ROWS]
            table: dict[str, Sequence[str | None]] = {"content": some, NAME: some}
            if splits:
                table["split"] = [name.split("/")[0] for name in some]
            if levels:
                table["label"] = [_label(name, int(splits)) for name in some]
            yield pa.table({name: pa.array(values, pa.string()) for name, values in table.items()})

    notes = [f"{others:,} files that are no images by their names were left out"] if others else []
    return Source(uri, IMAGES, root, read, columns, notes)


def _levels(names: Sequence[str]) -> tuple[bool, bool]:
    """Whether the first folders are splits, and whether there are folders that are classes."""
    depths = {min(name.count("/"), 2) for name in names}
    tops = {name.split("/")[0].lower() for name in names if "/" in name}
    is_split = depths == {2} and tops <= _SPLITS
    return is_split, depths != {0}


def _label(name: str, level: int) -> str | None:
    folders = name.split("/")[:-1]
    return folders[level] if len(folders) > level else None
