"""Images under the names that their contents came with."""

from __future__ import annotations

import posixpath
from collections import Counter
from typing import Any

from dstc.exporting.folder import MAX_NAME, Folder, safe_name
from dstc.exporting.items import Item, Items
from dstc.store.plain_records import extra_columns, plain_record

NAME = "name"
"""Column of original names; without it, or where it is empty, ids are the names."""


def write_plain_folder(items: Items, folder: Folder) -> int:
    """`<name>.png`, with `metadata.jsonl`, which `datasets` reads (`imagefolder`), too.

    With pairs, images are below `result/` and contents, the same names, below `content/`; labels
    in images are below `masks/`.

    Returns:
        The number of images.
    """
    columns = extra_columns(items.run.columns())
    taken: Counter[str] = Counter()
    records: list[dict[str, Any]] = []
    for item in items:
        split = f"{item.split}/" if items.selection.split_column else ""
        name = split + _free_name(item, taken)
        file = f"{name}.{item.ending}"
        if item.content is not None:
            file = f"result/{file}"
            folder.write(f"content/{name}.png", item.content)
        if item.mask is not None:
            folder.write(f"masks/{name}.png", item.mask)
        folder.write(file, item.image)
        records.append({"file_name": file, "id": item.key, **plain_record(item.row, columns)})
    folder.write_json_lines("metadata.jsonl", records)
    return len(records)


def _free_name(item: Item, taken: Counter[str]) -> str:
    """A name that no item before has, whatever its case: some file systems know none."""
    original = item.row.get(NAME)
    found = original if isinstance(original, str) and original.strip("/. ") else item.key
    segments = [safe_name(part) for part in found.split("/") if part not in ("", ".", "..")]
    segments[-1] = posixpath.splitext(segments[-1])[0]
    name = "/".join(segment.encode()[:MAX_NAME].decode(errors="ignore") for segment in segments)
    key = f"{item.split}/{name}".casefold()
    while taken[key]:
        taken[key] += 1
        name = f"{name}-{taken[key]}"
        key = f"{item.split}/{name}".casefold()
    taken[key] = 1
    return name
