"""Writes a manifest: one Parquet file whose row groups are what one read task of a job reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.store import storage
from dstc.store.manifest import SHARDS_PER_READ, TEXT_COLUMNS

# A read task takes 256 shards of, by default, 16 rows; Parquet has no way into a row group.
GROUP_ROWS = SHARDS_PER_READ * 16


def write_manifest(uri: str, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Writes rows to a Parquet file; readers see all of it or what was there before.

    Args:
        uri: of the file, local or not. tables: rows in `schema`.

    Returns:
        The number of rows.

    Raises:
        OutputError: storage takes no more.
    """
    schema = ordered(schema)
    rows = 0
    with tempfile.TemporaryDirectory(prefix="dstc-manifest-") as folder:
        path = Path(folder, "rows.parquet")
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            waiting: list[pa.Table] = []
            held = 0
            for table in tables:
                waiting.append(table.select(schema.names))
                held += len(table)
                while held >= GROUP_ROWS:
                    whole = pa.concat_tables(waiting)
                    writer.write_table(whole.slice(0, GROUP_ROWS), GROUP_ROWS)
                    rows += GROUP_ROWS
                    waiting, held = [whole.slice(GROUP_ROWS)], held - GROUP_ROWS
            if held:
                writer.write_table(pa.concat_tables(waiting), GROUP_ROWS)
                rows += held
        with storage.writing_output(uri):
            storage.write_file(uri, path)
    return rows


def ordered(schema: pa.Schema) -> pa.Schema:
    """The schema with the known columns first."""
    first = [name for name in (*TEXT_COLUMNS, "seed", "name") if name in schema.names]
    rest = [name for name in schema.names if name not in first]
    return pa.schema([schema.field(name) for name in (*first, *rest)])
