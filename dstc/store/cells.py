"""Cells as Python values, one by one: what Python cannot hold is told apart and ends nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dstc.store.manifest import TEXT_COLUMNS


@dataclass(frozen=True)
class BadCell:
    """A cell that Python cannot hold.

    Attributes:
        text: as near to it as text comes; bytes that are no UTF-8 as `\\xe9`.
        problem: what is wrong with it, at most 300 characters.
    """

    text: str
    problem: str

    def __str__(self) -> str:
        return self.text


def read_cell(cell: pa.Scalar) -> Any:
    """The cell as a Python value, or a `BadCell`.

    Example:
        >>> read_cell(pa.scalar(253402300800, pa.timestamp("s"))).problem
        'OverflowError: date value out of range'
    """
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:  # whose own text repeats all of the bytes
        return BadCell(_as_text(cell), f"not UTF-8 ({error.reason})")
    except Exception as error:  # OverflowError, ArrowInvalid: by type of cell
        return BadCell(_as_text(cell), f"{type(error).__name__}: {error}"[:300])


def read_records(
    rows: pa.Table | pa.RecordBatch,
    names: Iterable[str] | None = None,
    places: Iterable[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries: each cell by `read_cell`, blank ones of known text columns as None.

    Args:
        rows: (N,) of any types. names: of columns; those that the rows lack are left out.
        places: of the rows to read, all by default.
    """
    wanted = rows.schema.names if names is None else names
    columns = {name: rows.column(name) for name in wanted if name in rows.schema.names}
    for place in range(rows.num_rows) if places is None else places:
        yield {name: _known(name, read_cell(column[place])) for name, column in columns.items()}


def texts(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the text of each bad cell in its place."""
    return {
        name: value.text if isinstance(value, BadCell) else value for name, value in record.items()
    }


def is_blank(text: str) -> bool:
    """Whether nothing of the text would be seen, as of spaces or of a zero-width mark."""
    return all(mark.isspace() or unicodedata.category(mark) in ("Cc", "Cf") for mark in text)


def _known(name: str, value: Any) -> Any:
    return None if name in TEXT_COLUMNS and isinstance(value, str) and is_blank(value) else value


def _as_text(cell: pa.Scalar) -> str:
    try:
        if hasattr(cell, "as_buffer"):
            return cell.as_buffer().to_pybytes().decode(errors="backslashreplace")
        return str(cell.cast(pa.string()).as_py())
    except Exception:  # nested, or of a time zone that nobody knows
        return f"(a value of type {cell.type})"
