"""Columns of a manifest that its files call otherwise: `--column content=image_path`."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from dstc.errors import ManifestError

Names = tuple[tuple[str, str], ...]
"""Pairs: what DSTC calls a column, and what the file calls it."""


def name_in_file(names: Names, column: str) -> str:
    """What the file calls a column.

    Example:
        >>> name_in_file((("content", "image_path"),), "content")
        'image_path'
    """
    return dict(names).get(column, column)


def renamed(schema: pa.Schema, columns: Mapping[str, str], file: str) -> pa.Schema:
    """The columns of a file by their names in the manifest.

    Args:
        columns: names in the manifest, and in the file. file: its name, for errors.

    Raises:
        ManifestError: the file has no such column, or one of the new name, too.
    """
    for ours, theirs in columns.items():
        place = f"manifest file {file}, --column {ours}={theirs}"
        if theirs not in schema.names:
            raise ManifestError(
                f"{place}: there is no column {theirs!r}; found {', '.join(schema.names)}"
            )
        if ours in schema.names and ours not in columns.values():
            raise ManifestError(
                f"{place}: found a column {ours!r} in the file, too; expected none. Leave the "
                "option out to take that one, or rename it in the file"
            )
    fields = []
    for field in schema:
        new = [ours for ours, theirs in columns.items() if theirs == field.name]
        fields += [field.with_name(name) for name in new or [field.name]]
    return pa.schema(fields)
