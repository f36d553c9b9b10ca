"""CSV, JSON Lines and Parquet, of whatever columns; read piece by piece."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dstc.errors import ManifestError
from dstc.manifests.features import features_of, with_class_names
from dstc.manifests.source import CHUNK_IMAGES, CHUNK_ROWS, Source, is_bytes_type, is_image_type
from dstc.store import storage, urls
from dstc.store.column_types import convert, plain_type
from dstc.store.hive import partition_of, partition_types
from dstc.store.manifest_files import find_manifest_files
from dstc.text import describe, redact

CSV_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSON_ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz")
_SEPARATORS = ",;\t|"
_EXPECTED = {
    "CSV": "; expected UTF-8, names of columns in the first line, and as many cells in each"
}
# Names and codes, though Arrow reads them as numbers.
_NO_NUMBER = r"^\s*(\+|-?0\d)"


@contextlib.contextmanager
def _reading(uri: str, form: str) -> Iterator[None]:
    """Errors of a reader as one that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError) as error:
        raise ManifestError(
            f"{redact(uri)}: not readable {form}: {describe(error)}{_EXPECTED.get(form, '')}"
        ) from error


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[IO[bytes]]:
    with storage.open_input(uri) as raw:
        yield cast(IO[bytes], gzip.open(raw)) if uri.endswith(".gz") else raw


# --- CSV ------------------------------------------------------------------------------------------


def csv_file(uri: str, texts: Collection[str] = ()) -> Source:
    """Rows of a CSV: separated by commas, or by what its first line shows; empty cells are null.

    A column is whole numbers, numbers, or true and false where all of its cells are, else text:
    "007" stays text.

    Args:
        uri: of the file; `.gz` is unpacked. texts: columns that are text whatever they hold.

    Raises:
        ManifestError: it cannot be read.
    """
    with _reading(uri, "CSV"):
        with _opened(uri) as file:
            first = file.readline(1 << 20).decode("utf-8-sig")
    separator = max(_SEPARATORS, key=first.count) if first.strip() else ","
    with _reading(uri, "CSV"):
        names = next(_csv_tables(uri, separator)).schema.names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ManifestError(
            f"{redact(uri)}: found more than one column {', '.join(map(repr, twice))}; expected "
            "each name once"
        )

    def read() -> Iterator[pa.Table]:
        with _reading(uri, "CSV"):
            types = _csv_types(_csv_tables(uri, separator), texts)
            for table in _csv_tables(uri, separator):
                columns = [table.column(n).cast(types.get(n, pa.string())) for n in names]
                yield pa.table(columns, names=names)

    return Source(uri, "CSV", urls.parent(uri), read, tuple(names))


def _csv_tables(uri: str, separator: str) -> Iterator[pa.Table]:
    """All cells as text."""
    parse = pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    with _opened(uri) as file:
        options = pa.csv.ReadOptions(block_size=1 << 20)
        head = pa.csv.open_csv(file, options, parse).schema.names
    with _opened(uri) as file:
        as_text = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in head},
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=True,
        )
        rows = 0
        for batch in pa.csv.open_csv(file, options, parse, as_text):
            rows += batch.num_rows
            yield pa.Table.from_batches([batch])
        if not rows:
            yield pa.table({name: pa.array([], pa.string()) for name in head})


def _csv_types(tables: Iterable[pa.Table], texts: Collection[str]) -> dict[str, pa.DataType]:
    """The narrowest type that holds all cells of each column."""
    left: dict[str, list[pa.DataType]] = {}
    seen: set[str] = set()
    for table in tables:
        for name in table.schema.names:
            column = table.column(name)
            kinds = left.setdefault(
                name, [] if name in texts else [pa.int64(), pa.float64(), pa.bool_()]
            )
            left[name] = [kind for kind in kinds if _holds(column, kind)]
            if column.null_count < len(column):
                seen.add(name)
    return {name: kinds[0] for name, kinds in left.items() if kinds and name in seen}


def _holds(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return (
        pa.types.is_boolean(kind)
        or pc.any(pc.match_substring_regex(column, _NO_NUMBER)).as_py() is not True
    )


# --- JSON -----------------------------------------------------------------------------------------


def json_file(uri: str) -> Source:
    """Rows of JSON Lines, one object a line; or of one array of objects, which is read whole.

    Raises:
        ManifestError: it cannot be read.
    """

    def read() -> Iterator[pa.Table]:
        with _reading(uri, "JSON Lines"):
            with _opened(uri) as file:
                records = _json_records(uri, file)
                while some := list(itertools.islice(records, CHUNK_ROWS)):
                    yield table_of_records(some, uri)

    return Source(uri, "JSON Lines", urls.parent(uri), read)


def is_json_lines(uri: str) -> bool:
    """Whether the first line is a JSON object and more lines follow."""
    with _reading(uri, "JSON"), _opened(uri) as file:
        try:
            is_object = isinstance(json.loads(file.readline()), dict)
        except ValueError:
            return False
        return is_object and bool(file.read(4096).strip())


def _json_records(uri: str, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    lines = iter(file.readline, b"")
    first = next((line for line in lines if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
    if first.lstrip().startswith(b"["):
        try:
            found = json.loads(first + b"".join(lines))
        except ValueError as error:
            raise ManifestError(f"{redact(uri)}: not JSON: {error}") from error
        for number, record in enumerate(found):
            yield _record(uri, f"entry {number}", record)
        return
    for number, line in enumerate(itertools.chain([first], lines), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ManifestError(
                f"{redact(uri)}, line {number}: {error}; expected one JSON object a line"
            ) from error
        yield _record(uri, f"line {number}", found)


def _record(uri: str, place: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ManifestError(
            f"{redact(uri)}, {place}: found {type(found).__name__}; expected a JSON object"
        )
    return found


def table_of_records(records: list[dict[str, Any]], uri: str) -> pa.Table:
    """Records as a table; a column of numbers and text, which Arrow cannot hold, becomes text.

    Raises:
        ManifestError: a column holds things that cannot stand in one column.
    """
    names = dict.fromkeys(name for record in records for name in record)
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            if any(isinstance(value, dict | list) for value in values):
                raise ManifestError(
                    f"{redact(uri)}, column {name!r}: {describe(error)}; expected values of one "
                    "type"
                ) from error
            columns[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.table(columns)


# --- Parquet --------------------------------------------------------------------------------------


def parquet_files(uri: str) -> Source:
    """Rows of a Parquet file, a folder of them (folders `key=value` are columns), or a pattern.

    Images of Hugging Face stay bytes, its numbers of classes become names.

    Raises:
        ManifestError: there is none.
    """
    root, files = find_manifest_files(uri)
    partitions = [partition_of(name) for _, name in files]
    types = partition_types(partitions)

    def read() -> Iterator[pa.Table]:
        for (file, _), partition in zip(files, partitions, strict=True):
            with _reading(file, "Parquet"), storage.open_input(file) as raw:
                # Without a buffer, a whole column of a row group is in memory at once.
                parquet = pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20)
                schema = parquet.schema_arrow
                has_images = any(is_image_type(f.type) or is_bytes_type(f.type) for f in schema)
                for batch in parquet.iter_batches(CHUNK_IMAGES if has_images else CHUNK_ROWS):
                    table = plain(pa.Table.from_batches([batch]))
                    table = with_class_names(table, features_of(schema))
                    for key, value in partition:
                        if key not in schema.names:
                            cell = pa.scalar(value).cast(types[key])
                            table = table.append_column(key, pa.repeat(cell, len(table)))
                    yield table

    with _reading(files[0][0], "Parquet"), storage.open_input(files[0][0]) as raw:
        names = [*pq.read_schema(raw).names, *(key for key, _ in partitions[0])]
    return Source(uri, "Parquet", root, read, tuple(dict.fromkeys(names)))


def plain(table: pa.Table) -> pa.Table:
    """The table without views and without notes in its schema."""
    columns = [
        pa.chunked_array(
            [convert(chunk, plain_type(field.type)) for chunk in table.column(place).chunks],
            plain_type(field.type),
        )
        for place, field in enumerate(table.schema)
    ]
    return pa.table(columns, names=table.schema.names)
