"""The rows of a run whose manifest got rows since it began, in the order of the run's shards.

Shards are rows of the manifest by number, so a row that comes in between would move all behind it.
A run with such rows keeps, in `stats/order-<hash>.arrow`, which rows each of its shards has: those
with results stay in their parts, and new rows are shards behind them. The manifest's own row
numbers are counted in the order of its files; the run's, in the order of its shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import pyarrow as pa

from dstc.errors import RunFolderError
from dstc.store import retries, storage, urls
from dstc.store.duplicates import Duplicates
from dstc.store.manifest import (
    SHARDS_PER_READ,
    Manifest,
    ManifestFile,
    Numbers,
    Shard,
    ShardGroup,
)
from dstc.store.run_folder import RunFolder
from dstc.text import describe

_SCHEMA = pa.schema([(name, pa.int64()) for name in ("shard", "start", "count")])


@dataclass(frozen=True, eq=False)
class RowOrder:
    """Which rows of a manifest the shards of a run have, as stretches of consecutive rows.

    Attributes:
        shards: (S,) of each stretch, its shard; ascending, and all from 0 on are there.
        starts: (S,) number of its first row in the manifest. counts: (S,) its rows, 1 or more, all
            of the same file.
    """

    shards: Numbers
    starts: Numbers
    counts: Numbers

    @classmethod
    def of_rows(cls, shards: Numbers, rows: Numbers, first_rows: Numbers) -> RowOrder:
        """The order of (N,) manifest rows, each with its shard; shards ascend.

        Args:
            first_rows: (F,) of the manifest's files, at which a stretch begins anew.
        """
        begins = np.ones(len(rows), bool)
        begins[1:] = (np.diff(rows) != 1) | (np.diff(shards) != 0) | np.isin(rows[1:], first_rows)
        at = np.flatnonzero(begins)
        return cls(shards[at], rows[at], np.diff(np.append(at, len(rows))))

    @classmethod
    def plain(cls, rows_of_files: Sequence[int], rows_per_shard: int) -> RowOrder:
        """The order of a run whose manifest is as it was when it began."""
        rows = np.asarray(rows_of_files, np.int64)
        shards = -(-rows // rows_per_shard)
        place = spans(np.zeros(len(rows), np.int64), shards) * rows_per_shard
        starts = np.repeat(np.cumsum(rows) - rows, shards) + place
        counts = np.minimum(np.repeat(rows, shards) - place, rows_per_shard)
        return cls(np.arange(len(starts)), starts, counts)

    @classmethod
    def read(cls, run: RunFolder, name: str) -> RowOrder:
        """The order that `write` kept under this name.

        Raises:
            RunFolderError: it is gone, or is another.
            OSError: storage does not answer.
        """
        try:
            data = storage.read_bytes(urls.join(run.uri, name), retries.STEADY)
            with pa.ipc.open_stream(data) as reader:
                order = cls(*(column.to_numpy() for column in reader.read_all().columns))
            fault = "found other rows than were written" if order.name != name else None
        except FileNotFoundError:
            fault = "not found"
        except (pa.ArrowException, TypeError) as error:
            fault = f"not readable ({describe(error)})"
        if fault:
            raise RunFolderError(
                f"{name}: {fault}; expected the order of the run's rows, which job.json names. "
                "`dstc translate --append` with the same arguments finds it anew"
            )
        return order

    def write(self, run: RunFolder) -> None:
        """Keeps the order in a run folder, under its name.

        Raises:
            OSError: storage does not answer.
        """
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        table = pa.table([self.shards, self.starts, self.counts], schema=_SCHEMA)
        with pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
            writer.write_table(table)
        storage.write_bytes(urls.join(run.uri, self.name), sink.getvalue().to_pybytes())

    @cached_property
    def name(self) -> str:
        """Path of its file, relative to the run folder; another order has another."""
        digest = hashlib.sha256()
        for values in (self.shards, self.starts, self.counts):
            digest.update(np.asarray(values, "<i8").tobytes())
        return f"stats/order-{digest.hexdigest()[:16]}.arrow"

    @cached_property
    def rows(self) -> Numbers:
        """(N,) rows of the manifest, in the order of the run."""
        return spans(self.starts, self.counts)

    @cached_property
    def bounds(self) -> Numbers:
        """(shards + 1,) the first stretch of each shard, and one behind the last."""
        shards = int(self.shards[-1]) + 1 if len(self.shards) else 0
        return np.searchsorted(self.shards, np.arange(shards + 1))

    @cached_property
    def first_rows(self) -> Numbers:
        """(shards + 1,) the first row of each shard in the run's numbers, and all rows."""
        return np.append(0, np.cumsum(self.counts))[self.bounds]


def spans(starts: Numbers, counts: Numbers) -> Numbers:
    """(sum of counts,) the numbers of each span in turn: `counts` many from `starts` on.

    Example:
        >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    offsets = np.cumsum(counts) - counts
    return np.repeat(starts - offsets, counts) + np.arange(int(counts.sum()))


@dataclass(frozen=True)
class GatheredShard(Shard):
    """A shard whose rows lie in several places of the manifest.

    Attributes:
        pieces: where its rows lie, in their order; file, start and stop are those of the first.
        run_row: number of its first row in the run.
    """

    pieces: tuple[Shard, ...] = field(kw_only=True)
    run_row: int = field(kw_only=True)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def first_row(self) -> int:
        """Number of the first row in the run."""
        return self.run_row


@dataclass(frozen=True, eq=False)
class OrderedGroup(ShardGroup):
    """Shards that one task reads, of one or several files; a few kilobytes.

    Attributes:
        files: that their rows lie in. order: of these shards alone.
        first_rows: of each shard, in the run's numbers. `rows` are those of the run.
    """

    files: tuple[ManifestFile, ...] = field(kw_only=True)
    order: RowOrder = field(kw_only=True)
    first_rows: Numbers = field(kw_only=True)

    def __getitem__(self, place: int) -> Shard:
        number, first = self.numbers[place], int(self.first_rows[place])
        order, left = self.order, self.rows - first
        low, high = np.searchsorted(order.shards, [number, number + 1])
        pieces = []
        starts, counts = order.starts[low:high].tolist(), order.counts[low:high].tolist()
        for start, count in zip(starts, counts, strict=True):
            file = self.files[bisect_right(self.files, start, key=lambda f: f.first_row) - 1]
            in_file, taken = start - file.first_row, min(count, left)
            if taken > 0:
                pieces.append(Shard(number, file, in_file, in_file + taken))
            left -= taken
        head = pieces[0]
        return GatheredShard(
            number, head.file, head.start, head.stop, pieces=tuple(pieces), run_row=first
        )

    def whole(self) -> OrderedGroup:
        """The same shards, with the rows that a limit leaves out."""
        return dataclasses.replace(self, rows=int(self.first_rows.max() + self.order.counts.sum()))


@dataclass(frozen=True)
class OrderedManifest(Manifest):
    """A manifest whose rows are taken in the order of a run; `rows` are the run's first ones.

    Attributes:
        order: of the run. It has all rows of the manifest, each once.
    """

    order: RowOrder = field(kw_only=True)

    @cached_property
    def shards(self) -> int:
        """Number of shards, those beyond `limit` left out."""
        return int(np.searchsorted(self.order.first_rows, self.rows))

    def shard(self, number: int) -> Shard:
        """The shard of this number, counted from 0."""
        return self._group(np.array([number]))[0]

    def rows_of_each(self, shards: Collection[int]) -> Numbers:
        """Rows of each of these shards, those beyond `limit` left out."""
        numbers = np.fromiter(shards, np.int64, len(shards))
        firsts = self.order.first_rows
        return np.minimum(firsts[numbers + 1], self.rows) - firsts[numbers]

    def groups(self, shards: Sequence[int]) -> Iterator[ShardGroup]:
        """These shards, ascending, by read task: at most `SHARDS_PER_READ`."""
        numbers = np.fromiter(shards, np.int64, len(shards))
        for low in range(0, len(numbers), SHARDS_PER_READ):
            yield self._group(numbers[low : low + SHARDS_PER_READ])

    def _group(self, numbers: Numbers) -> OrderedGroup:
        order, bounds = self.order, self.order.bounds
        at = spans(bounds[numbers], bounds[numbers + 1] - bounds[numbers])
        starts = order.starts[at]
        firsts = np.array([file.first_row for file in self.files])
        files = np.unique(np.searchsorted(firsts, starts, side="right") - 1).tolist()
        return OrderedGroup(
            self.files[files[0]],
            tuple(numbers.tolist()),
            self.rows_per_shard,
            self.rows,
            files=tuple(self.files[file] for file in files),
            order=RowOrder(order.shards[at], starts, order.counts[at]),
            first_rows=order.first_rows[numbers],
        )

    def duplicates(self) -> Duplicates:
        """The rows whose id an earlier row of the run used already."""
        found = in_file_order(self).duplicates()
        of_run = np.empty(self.all_rows, np.int64)
        of_run[self.order.rows] = np.arange(self.all_rows)
        firsts = np.unique(found.first_rows)
        ids = np.concatenate([firsts, found.first_rows])
        rows = of_run[np.concatenate([firsts, found.rows])]
        by_id = np.lexsort((rows, ids))
        ids, rows = ids[by_id], rows[by_id]
        is_first = np.append(True, ids[1:] != ids[:-1])[: len(ids)]
        first_of_each = rows[is_first][np.cumsum(is_first) - 1]
        later, first_rows = rows[~is_first], first_of_each[~is_first]
        ascending = np.argsort(later)
        return Duplicates(later[ascending], first_rows[ascending])


def in_file_order(manifest: Manifest) -> Manifest:
    """The manifest with all of its rows in the order of its files; as it is, unless ordered."""
    if not isinstance(manifest, OrderedManifest):
        return manifest
    values = {field.name: getattr(manifest, field.name) for field in fields(Manifest)}
    return Manifest(**{**values, "rows": manifest.all_rows})


def ordered(manifest: Manifest, order: RowOrder) -> OrderedManifest:
    """The manifest with its rows in the order of a run."""
    values = {field.name: getattr(manifest, field.name) for field in fields(Manifest)}
    return OrderedManifest(**values, order=order)
