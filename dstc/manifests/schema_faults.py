"""Everything that is wrong with the columns of a manifest, at once, and what to do about each.

`store.manifest.open_manifest`, which a job begins with, ends at the first; what it refuses is found
here, too, and a test compares them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import ManifestError
from dstc.manifests.columns import IMAGE_COLUMNS, hint_for
from dstc.manifests.source import is_bytes_type, is_image_type
from dstc.store import storage
from dstc.store.column_names import renamed
from dstc.store.column_types import common_type, plain_type
from dstc.store.hive import partition_of
from dstc.store.manifest import REQUIRED_COLUMNS, TEXT_COLUMNS
from dstc.store.manifest_files import find_manifest_files
from dstc.text import describe

# Faults of one kind that are told file by file; a manifest of many files mostly has all in each.
_MOST_FILES = 3


def schema_faults(uri: str, columns: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the files and columns of a manifest; empty where nothing is.

    Args:
        uri: a file, a folder or a pattern; absolute. columns: that the files call otherwise.

    Raises:
        ManifestError: there are no such files.
    """
    _, files = find_manifest_files(uri)
    found: dict[str, list[str]] = {}
    types: dict[str, tuple[pa.DataType, str]] = {}
    rows = 0
    for file, name in files:
        try:
            with storage.open_input(file) as raw, pq.ParquetFile(raw) as parquet:
                schema, count = parquet.schema_arrow, parquet.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            found.setdefault(f"not a readable Parquet file: {describe(error)}", []).append(name)
            continue
        rows += count
        try:
            schema = renamed(schema, columns or {}, name)
        except ManifestError as error:
            found.setdefault(str(error), []).append(name)
            continue
        for fault in [*_of_schema(schema, name), *_other_types(schema, name, types)]:
            found.setdefault(fault, []).append(name)
    if not rows and not found:
        return ["the manifest has no rows; expected at least 1"]
    return [f"{_files(names, len(files))}{fault}" for fault, names in found.items()]


def _files(names: list[str], of: int) -> str:
    if of == 1:
        return ""
    if len(names) == of:
        return f"all {of:,} files: "
    more = len(names) - _MOST_FILES
    return ", ".join(names[:_MOST_FILES]) + (f" and {more:,} more" if more > 0 else "") + ": "


def _of_schema(schema: pa.Schema, file: str) -> Iterator[str]:
    names = list(schema.names)
    there = {*names, *(key for key, _ in partition_of(file))}
    for name, count in Counter(names).items():
        if count > 1:
            yield f"column {name!r}: found {count} of this name; expected one"
    for name in REQUIRED_COLUMNS:
        if name not in names:
            how = hint_for(name, names) if name != "id" else "it makes ids, too"
            yield f"{name} is missing; `dstc manifest build` with {_plainly(how)}"
    if not {"style", "prompt"} & there:
        yield (
            "neither style nor prompt; `dstc manifest build` with --style FILE, --prompt TEXT or "
            + _plainly(hint_for("prompt", names))
        )
    for field in schema:
        yield from _of_field(field)


def _plainly(hint: str) -> str:
    return hint.strip("`?").removesuffix("`").removeprefix("name it with ")


def _of_field(field: pa.Field) -> Iterator[str]:
    kind = plain_type(field.type)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_empty = pa.types.is_null(kind) and field.name not in REQUIRED_COLUMNS
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if field.name in TEXT_COLUMNS and not (is_text or is_empty):
        if is_image_type(kind) or is_bytes_type(kind):
            todo = "`dstc manifest build` writes the images beside a manifest"
        elif field.name == "id" and pa.types.is_integer(kind):
            todo = "`dstc manifest build` makes text of them"
        else:
            todo = "the URI of an image" if field.name in IMAGE_COLUMNS else "text"
        yield f"column {field.name!r}: found {field.type}; expected string: {todo}"
    if field.name == "seed":
        fits = pa.types.is_integer(kind) and not pa.types.is_uint64(kind)
        if not (fits or is_empty):
            hint = " (pandas makes integers with gaps floats; use Int64)"
            yield f"column 'seed': found {field.type}; expected int64" + (
                hint if pa.types.is_floating(kind) else ""
            )


def _other_types(
    schema: pa.Schema, file: str, types: dict[str, tuple[pa.DataType, str]]
) -> Iterator[str]:
    """Columns whose types in this file and earlier ones go into no common one."""
    for field in schema:
        if field.name in TEXT_COLUMNS or field.name == "seed":
            continue
        kind = plain_type(field.type)
        before, of = types.get(field.name, (kind, file))
        common = common_type(before, kind)
        if common is None:
            yield f"column {field.name!r}: found {field.type}; expected {before}, as in {of}"
        types[field.name] = (common or before, of)
