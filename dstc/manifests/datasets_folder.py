"""A folder that `datasets` wrote with `save_to_disk`: one set, or one for each split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dstc.errors import ManifestError
from dstc.manifests.features import features_of, with_class_names
from dstc.manifests.optional import load
from dstc.manifests.source import CHUNK_IMAGES, Source
from dstc.manifests.table_files import plain
from dstc.store import storage, urls
from dstc.text import describe, redact

_SPLIT = "split"


def is_datasets_folder(folder: str) -> bool:
    """Whether it holds what `save_to_disk` writes beside the data."""
    return any(
        storage.exists(urls.join(folder, name)) for name in ("dataset_dict.json", "state.json")
    )


def datasets_folder(folder: str) -> Source:
    """Rows of the set, images as bytes, classes by name; the name of the split in `split`.

    Raises:
        SettingsError: `datasets` is not installed.
        ManifestError: it cannot be read.
    """
    datasets = load("datasets", "datasets", "a folder of Hugging Face datasets")
    folder = urls.folder(folder)
    try:
        found = datasets.load_from_disk(folder)
    except Exception as error:  # of many types, by what is wrong in its files
        raise ManifestError(
            f"{redact(folder)}: not a readable folder of datasets: {describe(error)}"
        ) from error
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {None: found}
    names = list(dict.fromkeys(name for part in splits.values() for name in part.column_names))

    def read() -> Iterator[pa.Table]:
        for split, part in splits.items():
            yield from _tables(part, split)

    columns = (*names, *([_SPLIT] if None not in splits and _SPLIT not in names else []))
    return Source(folder, "a folder of datasets", folder, read, columns)


def _tables(part: Any, split: str | None) -> Iterator[pa.Table]:
    features = features_of(part.features.arrow_schema)
    for found in part.with_format("arrow").iter(CHUNK_IMAGES):
        table = with_class_names(plain(found), features)
        if split is not None and _SPLIT not in table.schema.names:
            table = table.append_column(_SPLIT, pa.repeat(pa.scalar(split), len(table)))
        yield table
