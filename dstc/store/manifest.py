"""The manifest: its columns, its checks, and the shards that a run works through.

Everything here is planned from Parquet footers; no row is held in the driver. A *shard* is
`rows_per_shard` rows of one file, in order; its number depends on the manifest and that size alone,
so the same command plans the same shards again. Ten million rows are 625,000 shards of 16: they
are counted by arithmetic over files, and a `Shard` is made only where it is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import ManifestError
from dstc.store import retries, storage, urls
from dstc.store.column_names import Names, name_in_file, renamed
from dstc.store.column_types import common_type, convert, plain_type
from dstc.store.duplicates import Duplicates, IdColumn, find_duplicates_in
from dstc.store.footers import read_footer
from dstc.store.hive import Partition, partition_of, partition_types
from dstc.store.manifest_files import find_manifest_files
from dstc.text import describe, redact

TEXT_COLUMNS = ("id", "content", "style", "prompt", "source_prompt", "mask")
REQUIRED_COLUMNS = ("id", "content")
# Known columns have one type in results, whichever of these the manifest brings.
_TEXT_TYPES = "string"
_SEED_TYPES = "int64"

# Ids decoded at a time: about 2 MB.
_ID_ROWS = 1 << 16
# Shards that one read task yields. Parquet has no way into the middle of a row group: with one
# task per shard, a row group of a million rows would be decoded from its start 60,000 times.
SHARDS_PER_READ = 256

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ManifestFile:
    """One Parquet file of a manifest.

    Attributes:
        uri: opens it. name: relative to the manifest, names it in errors and in job.json.
        rows: its rows. size: bytes.
        footer_sha256: over the Parquet footer, which holds the statistics, offsets and sizes of all
            column chunks: another content nearly always has another footer.
        first_row, first_shard: numbers of its first row and shard in the whole manifest.
        partition: columns that the names of its folders give.
        columns: that the file calls otherwise.
    """

    uri: str
    name: str
    rows: int
    size: int
    footer_sha256: str
    first_row: int
    first_shard: int
    partition: Partition = ()
    columns: Names = ()


@dataclass(frozen=True)
class Shard:
    """Some rows of one file.

    Attributes:
        number: names the shard in the whole manifest.
        file: whose rows these are.
        start, stop: rows in the file, start <= row < stop.
    """

    number: int
    file: ManifestFile
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @property
    def first_row(self) -> int:
        """Number of the first row in the whole manifest."""
        return self.file.first_row + self.start


@dataclass(frozen=True)
class Manifest:
    """A checked manifest and its division into shards.

    Attributes:
        uri: as given, made absolute.
        files: in the order of their names.
        schema: columns and types, the known ones normalised, the others such that they hold those
            of all files.
        rows: rows to translate: all, or the first `limit`.
        rows_per_shard: rows of each shard but the last of each file.
        folder: what its relative URIs start at.
    """

    uri: str
    files: tuple[ManifestFile, ...]
    schema: pa.Schema
    rows: int
    rows_per_shard: int
    folder: str = "."

    @cached_property
    def shards(self) -> int:
        """Number of shards, those beyond `limit` left out."""
        last = self.files[self._file_of_row(self.rows - 1)]
        return last.first_shard + _shards_of(self.rows - last.first_row, self.rows_per_shard)

    @property
    def all_rows(self) -> int:
        """Rows of all files, those beyond `limit` included."""
        return sum(file.rows for file in self.files)

    def shard(self, number: int) -> Shard:
        """The shard of this number, counted from 0."""
        file = self.files[int(np.searchsorted(self._first_shards, number, side="right")) - 1]
        return _shard_of(file, number, self.rows_per_shard, self._rows_of_file(file))

    def shards_without(self, done: Collection[int]) -> Sequence[int]:
        """Numbers of the shards that are not among these, ascending."""
        if not done:
            return range(self.shards)
        is_left = np.ones(self.shards, bool)
        is_left[_numbers(done)] = False
        return array("q", np.flatnonzero(is_left).astype(np.int64).tobytes())

    def rows_of(self, shards: Collection[int]) -> int:
        """Rows of these shards together."""
        return int(self.rows_of_each(shards).sum())

    def rows_of_each(self, shards: Collection[int]) -> Numbers:
        """Rows of each of these shards, those beyond `limit` left out."""
        numbers = _numbers(shards)
        files = np.searchsorted(self._first_shards, numbers, side="right") - 1
        rows_of_files = np.array([self._rows_of_file(file) for file in self.files], np.int64)
        starts = (numbers - self._first_shards[files]) * self.rows_per_shard
        return np.minimum(rows_of_files[files] - starts, self.rows_per_shard)

    def groups(self, shards: Sequence[int]) -> Iterator[ShardGroup]:
        """These shards, ascending, by read task: of one file each, at most `SHARDS_PER_READ`."""
        numbers = _numbers(shards)
        bounds = np.searchsorted(numbers, self._first_shards).tolist()
        for file, low, high in zip(self.files, bounds, [*bounds[1:], len(numbers)], strict=True):
            rows = self._rows_of_file(file)
            for start in range(low, high, SHARDS_PER_READ):
                some = numbers[start : min(start + SHARDS_PER_READ, high)]
                yield ShardGroup(file, _compact(some), self.rows_per_shard, rows)

    def duplicates(self) -> Duplicates:
        """The rows whose id an earlier row used already."""
        return find_duplicates_in(
            [
                IdColumn(file.first_row, self._rows_of_file(file), partial(_read_ids, file))
                for file in self.files
                if file.first_row < self.rows
            ]
        )

    def identity(self) -> list[dict[str, object]]:
        """Fingerprint of the manifest's files, the same wherever they lie."""
        return [
            {"name": f.name, "size": f.size, "rows": f.rows, "footer_sha256": f.footer_sha256}
            for f in self.files
        ]

    def _file_of_row(self, row: int) -> int:
        return bisect_right(self.files, row, key=lambda file: file.first_row) - 1

    def _rows_of_file(self, file: ManifestFile) -> int:
        return min(file.rows, self.rows - file.first_row)

    @cached_property
    def _first_shards(self) -> Numbers:
        return np.array([file.first_shard for file in self.files], np.int64)


@dataclass(frozen=True)
class ShardGroup:
    """Shards of one file that one task reads; a few hundred bytes, however many they are.

    Attributes:
        file: whose shards these are. numbers: ascending.
        rows_per_shard: of the manifest. rows: of the file, those beyond `limit` left out.
    """

    file: ManifestFile
    numbers: Sequence[int]
    rows_per_shard: int
    rows: int

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Shard:
        return _shard_of(self.file, self.numbers[place], self.rows_per_shard, self.rows)

    def __iter__(self) -> Iterator[Shard]:
        return (self[place] for place in range(len(self)))

    def whole(self) -> ShardGroup:
        """The same shards, with the rows that a limit leaves out."""
        return dataclasses.replace(self, rows=self.file.rows)


def _shard_of(file: ManifestFile, number: int, rows_per_shard: int, rows: int) -> Shard:
    start = (number - file.first_shard) * rows_per_shard
    return Shard(number, file, start, min(start + rows_per_shard, rows))


def _numbers(shards: Collection[int]) -> Numbers:
    return np.fromiter(shards, np.int64, len(shards))


def _compact(numbers: Numbers) -> Sequence[int]:
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers):
        return range(first, last + 1)
    return tuple(numbers.tolist())


def _read_ids(file: ManifestFile) -> Iterator[pa.Array]:
    name = name_in_file(file.columns, "id")
    with open_parquet(file.uri, file.name) as (parquet, _):
        for batch in parquet.iter_batches(_ID_ROWS, columns=[name]):
            # By name: `columns` takes one called `id.x` along.
            yield convert(batch.column(name), pa.large_string())


def open_manifest(
    uri: str,
    rows_per_shard: int,
    *,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Manifest:
    """Checks a manifest from its footers and plans its shards.

    Args:
        uri: a Parquet file, a folder of them, or a glob; a local path or any fsspec URL.
        rows_per_shard: rows of a shard, at least 1.
        limit: translate only the first rows of the manifest.
        columns: by their names in the manifest, what its files call some of them.

    Raises:
        ManifestError: there is none, it is empty or unreadable, or a column is missing or has
            another type.
        StorageError: the URL cannot be used.
    """
    uri = urls.absolute(uri)
    folder, found = find_manifest_files(uri)
    # Footers are small and far away: many at once.
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(lambda file: _read_footer(file[0], file[1], columns or {}), found))
    schema = _checked_schema(footers)
    files = []
    row, shard = 0, 0
    for footer in footers:
        if footer.rows:
            files.append(
                ManifestFile(
                    uri=footer.uri,
                    name=footer.name,
                    rows=footer.rows,
                    size=footer.size,
                    footer_sha256=footer.sha256,
                    first_row=row,
                    first_shard=shard,
                    partition=footer.partition,
                    columns=tuple((columns or {}).items()),
                )
            )
        row += footer.rows
        shard += _shards_of(footer.rows, rows_per_shard)
    if not row:
        raise ManifestError(f"{redact(uri)}: the manifest has no rows; expected at least 1")
    rows = row if limit is None else min(row, limit)
    return Manifest(uri, tuple(files), schema, rows, rows_per_shard, folder)


def _shards_of(rows: int, rows_per_shard: int) -> int:
    return -(-rows // rows_per_shard)


# --- files and footers ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Footer:
    uri: str
    name: str
    rows: int
    size: int
    sha256: str
    schema: pa.Schema

    @property
    def partition(self) -> Partition:
        """Columns that the names of its folders give; one that the file has itself counts."""
        found = partition_of(self.name)
        return tuple(pair for pair in found if pair[0] not in self.schema.names)


def _read_footer(uri: str, name: str, columns: Mapping[str, str]) -> _Footer:
    with open_parquet(uri, name) as (parquet, raw):
        size, digest = read_footer(raw)
        return _Footer(
            uri=uri,
            name=name,
            rows=parquet.metadata.num_rows,
            size=size,
            sha256=digest,
            schema=renamed(parquet.schema_arrow, columns, name),
        )


@contextlib.contextmanager
def open_parquet(
    uri: str, name: str, patience: retries.Patience = retries.PROMPT
) -> Iterator[tuple[pq.ParquetFile, Any]]:
    """The Parquet file and the raw file below it; what goes wrong inside names the file."""
    try:
        with storage.open_input(uri, patience) as raw:
            yield pq.ParquetFile(raw, pre_buffer=False), raw
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"manifest file {name}: not a readable Parquet file: {describe(error)}"
        ) from error


# --- columns --------------------------------------------------------------------------------------


def _checked_schema(footers: Sequence[_Footer]) -> pa.Schema:
    """Columns of all files; the type of each holds what any file has there."""
    partitions = partition_types(footer.partition for footer in footers)
    seen: dict[tuple[pa.Schema, tuple[str, ...]], _Footer] = {}
    for footer in footers:  # of many files, most are alike
        seen.setdefault((footer.schema, tuple(name for name, _ in footer.partition)), footer)
    fields: dict[str, tuple[pa.Field, _Footer]] = {}
    for footer in seen.values():
        for field in _normalized(footer, partitions):
            before, of = fields.get(field.name, (field, footer))
            common = common_type(before.type, field.type)
            if common is None:
                raise ManifestError(
                    f"manifest file {footer.name}, column {field.name!r}: found {field.type}; "
                    f"expected {before.type}, as in {of.name}"
                )
            fields[field.name] = before.with_type(common), of
    return pa.schema([field for field, _ in fields.values()])


def _normalized(footer: _Footer, partitions: Mapping[str, pa.DataType]) -> pa.Schema:
    of_folders = [
        pa.field(name, pa.string() if name in TEXT_COLUMNS else partitions[name])
        for name, _ in footer.partition
    ]
    schema = pa.schema([*footer.schema, *of_folders])
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise ManifestError(
                f"manifest file {footer.name}, column {name!r}: found "
                f"{schema.names.count(name)} of this name; expected one"
            )
    for name in REQUIRED_COLUMNS:
        if name not in footer.schema.names:
            raise ManifestError(
                f"manifest file {footer.name}, column {name!r}: not found; expected a string "
                f"column (found {', '.join(schema.names) or 'no columns'})"
            )
    if not {"style", "prompt"} & set(schema.names):
        raise ManifestError(
            f"manifest file {footer.name}: neither column 'style' nor 'prompt' found; expected "
            f"one of them, or both (found {', '.join(schema.names)})"
        )
    return pa.schema([_normalized_field(footer.name, field) for field in schema])


def _normalized_field(file: str, field: pa.Field) -> pa.Field:
    kind = plain_type(field.type)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    # pandas writes a column of only empty values with type null.
    is_empty = pa.types.is_null(kind) and field.name not in REQUIRED_COLUMNS
    if field.name in TEXT_COLUMNS:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_empty):
            raise ManifestError(
                f"manifest file {file}, column {field.name!r}: found {field.type}; expected "
                f"{_TEXT_TYPES}"
            )
        return pa.field(field.name, pa.string())
    if field.name == "seed":
        fits = pa.types.is_integer(kind) and not pa.types.is_uint64(kind)
        if not (fits or is_empty):
            hint = " (pandas makes integers with gaps floats; use Int64)"
            raise ManifestError(
                f"manifest file {file}, column 'seed': found {field.type}; expected {_SEED_TYPES}"
                + (hint if pa.types.is_floating(kind) else "")
            )
        return pa.field("seed", pa.int64())
    # Of types that this Python does not know, their names stand here.
    kept = {k: v for k, v in (field.metadata or {}).items() if k.startswith(b"ARROW:extension")}
    return pa.field(field.name, plain_type(field.type), metadata=kept or None)


# --- reading --------------------------------------------------------------------------------------


def as_planned(batch: pa.RecordBatch, file: ManifestFile, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of a file in the schema of the whole manifest: no value is opened.

    Raises:
        ArrowException: more than 2 GB of a known column, which is counted in 32 bits.
    """
    partition = dict(file.partition)
    columns = []
    for field in schema:
        name = name_in_file(file.columns, field.name)
        if name in batch.schema.names:
            column = convert(batch.column(name), field.type)
        elif (value := partition.get(field.name)) is not None:
            column = pa.repeat(pa.scalar(value).cast(field.type), batch.num_rows)
        else:
            column = pa.nulls(batch.num_rows, field.type)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
