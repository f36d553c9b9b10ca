"""What Hugging Face notes in the schema of a table: which columns are images, which are classes.

The note is JSON under the key `huggingface` of the Arrow schema, which `datasets` writes into
Parquet and into its own folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def features_of(schema: pa.Schema) -> Mapping[str, Any]:
    """The features by column as JSON has them; empty where the schema has no such note."""
    try:
        note = json.loads((schema.metadata or {})[b"huggingface"])
        found = note["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def with_class_names(table: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """The table with names in place of the numbers of classes; -1, which means none, is null.

    Example:
        `with_class_names(table, features_of(table.schema))` makes 1 "dog" where the feature is
        `{"_type": "ClassLabel", "names": ["cat", "dog"]}`.
    """
    for place, name in enumerate(table.schema.names):
        feature = features.get(name)
        names = _names(feature)
        if names is not None:
            table = table.set_column(place, name, _named(table.column(name), names))
            continue
        inner = feature.get("feature") if isinstance(feature, dict) else None
        inner_names = _names(inner)
        if inner_names is not None and pa.types.is_list(table.schema.field(name).type):
            column = table.column(name).combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks)
            values = _named(pa.chunked_array([column.flatten()]), inner_names)
            lengths = pc.fill_null(pc.list_value_length(column), 0)
            ends = pc.cumulative_sum(lengths)
            offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends.cast(pa.int32())])
            named = pa.ListArray.from_arrays(
                offsets, values.combine_chunks(), mask=column.is_null()
            )
            table = table.set_column(place, name, named)
    return table


def _names(feature: Any) -> list[str] | None:
    is_class = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    names = feature.get("names") if is_class else None
    return [str(name) for name in names] if isinstance(names, list) else None


def _named(numbers: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    if not pa.types.is_integer(numbers.type):
        return numbers
    known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))
    places = pc.if_else(known, numbers, pa.scalar(None, numbers.type))
    return pc.take(pa.array(names, pa.string()), places.cast(pa.int64()))
