"""Columns in the names of folders, as Hive, Spark and Arrow write: `lang=de/rows.parquet`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import pyarrow as pa

Partition = tuple[tuple[str, str | None], ...]
"""(column, value) of a file, in the order of its folders."""

_NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_of(name: str) -> Partition:
    """What the folders in a file's name say, percent-decoded.

    Args:
        name: relative to the manifest's folder.

    Example:
        >>> partition_of("lang=de/place=K%C3%B6ln/rows.parquet")
        (('lang', 'de'), ('place', 'Köln'))
    """
    pairs = [folder.partition("=") for folder in name.split("/")[:-1]]
    found = {unquote(key): unquote(value) for key, mark, value in pairs if key and mark}
    return tuple((key, None if value == _NULL else value) for key, value in found.items())


def partition_types(partitions: Iterable[Partition]) -> Mapping[str, pa.DataType]:
    """Types of the columns: int64 where each value is a whole number in its usual form."""
    values: dict[str, set[str]] = {}
    for key, value in (pair for partition in set(partitions) for pair in partition):
        values.setdefault(key, set()).update([] if value is None else [value])
    return {
        key: pa.int64() if found and all(map(_is_number, found)) else pa.string()
        for key, found in values.items()
    }


def _is_number(text: str) -> bool:
    # "007" may be a name; as text it stays what it is.
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(text)) == text and len(digits) <= 18
