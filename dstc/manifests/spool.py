"""Rows on their way to a manifest, kept on local disk until all of them have been seen.

Only then are the columns and their types known: rows of JSON have the fields that they have. A row
takes some hundred bytes there; nothing but the current piece is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from dstc.errors import ManifestError
from dstc.store.column_types import common_type, convert


class Spool:
    """Tables of differing columns, given back as tables of one schema.

    Args:
        folder: local, for the pieces.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._schema = pa.schema([])
        self._types: dict[str, pa.DataType] = {}
        self.rows = 0

    def add(self, table: pa.Table, place: str) -> None:
        """Keeps rows.

        Args:
            table: of any columns. place: names it in errors.

        Raises:
            ManifestError: a column has a type that does not go with that of earlier rows.
        """
        for field in table.schema:
            before = self._types.get(field.name, field.type)
            common = _common(before, field.type)
            if common is None:
                raise ManifestError(
                    f"{place}, column {field.name!r}: found {field.type}; expected {before}, as "
                    "in earlier rows"
                )
            self._types[field.name] = common
        if self._writer is None or self._schema != table.schema:
            self._close()
            self._schema = table.schema
            path = self._folder / f"{len(self._files)}.arrow"
            self._writer = pa.ipc.new_file(path, table.schema)
            self._files.append(path)
        self._writer.write_table(table)
        self.rows += len(table)

    @property
    def schema(self) -> pa.Schema:
        """All columns, each with the type that holds what all rows have there."""
        return pa.schema(list(self._types.items()))

    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, in `schema`."""
        self._close()
        schema = self.schema
        for path in self._files:
            with pa.ipc.open_file(path) as file:
                for number in range(file.num_record_batches):
                    batch = file.get_batch(number)
                    columns = [
                        convert(batch.column(field.name), field.type)
                        if field.name in batch.schema.names
                        else pa.nulls(batch.num_rows, field.type)
                        for field in schema
                    ]
                    yield pa.Table.from_arrays(columns, schema=schema)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    found = common_type(one, other)
    numeric = (pa.types.is_integer, pa.types.is_floating)
    if found is None and all(any(is_(kind) for is_ in numeric) for kind in (one, other)):
        return pa.float64()  # 1 in one row and 1.5 in another are numbers
    return found
