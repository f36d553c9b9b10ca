"""The ledger: how the rows of each finished shard ended, so that nobody has to open every part.

A run of 10 million rows has hundreds of thousands of parts; counting them one by one takes longer
than a person waits. The driver keeps these counts in `stats/ledger.arrow`. It is an index, not the
truth: a shard is done when its part exists, and a part that the ledger does not know is read.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store import storage

if TYPE_CHECKING:
    from jobs.store.run_folder import RunFolder

Counts = Mapping[str, Mapping[str | None, int]]
"""Rows by status, and in each by reason (None where there is none)."""

_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("rows", pa.int32()),
    ]
)
# Each of them is one request for one small file.
_READERS = 32


def count_rows(rows: pa.Table) -> dict[str, dict[str | None, int]]:
    """Rows by status and reason."""
    counts: dict[str, dict[str | None, int]] = {}
    grouped = rows.select(["status", "reason"]).group_by(["status", "reason"])
    for row in grouped.aggregate([([], "count_all")]).to_pylist():
        counts.setdefault(row["status"], {})[row["reason"]] = row["count_all"]
    return counts


class Ledger:
    """Counts of finished shards; may be used from several threads.

    Args:
        run: whose shards.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._lock = threading.Lock()
        # Nearly all shards are done to the last row: a number each, and a dictionary for the rest.
        self._clean: dict[int, int] = {}
        self._mixed: dict[int, Counts] = {}
        self._changed = False

    @classmethod
    def open(cls, run: RunFolder) -> Ledger:
        """The ledger as it was saved last; an empty one where there is none that can be read."""
        ledger = cls(run)
        try:
            with pa.ipc.open_stream(storage.read_bytes(run.ledger)) as reader:
                table = reader.read_all()
            columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
        except (FileNotFoundError, NotADirectoryError, pa.ArrowException, KeyError):
            return ledger
        mixed: dict[int, dict[str, dict[str | None, int]]] = {}
        for shard, status, reason, rows in zip(*columns, strict=True):
            mixed.setdefault(shard, {}).setdefault(status, {})[reason] = rows
        for shard, counts in mixed.items():
            ledger.record(shard, counts)
        ledger._changed = False
        return ledger

    def __contains__(self, shard: int) -> bool:
        return shard in self._clean or shard in self._mixed

    def __len__(self) -> int:
        return len(self._clean) + len(self._mixed)

    def record(self, shard: int, counts: Counts) -> None:
        """A shard's part was written with these counts, whatever was known of it before."""
        with self._lock:
            self._clean.pop(shard, None)
            self._mixed.pop(shard, None)
            if set(counts) == {"done"} and set(counts["done"]) == {None}:
                self._clean[shard] = counts["done"][None]
            else:
                self._mixed[shard] = counts
            self._changed = True

    def forget(self, shards: Iterable[int]) -> None:
        """Drops shards that are about to run again, or whose part is gone."""
        with self._lock:
            for shard in shards:
                if shard in self:
                    self._clean.pop(shard, None)
                    self._mixed.pop(shard, None)
                    self._changed = True

    def complete(self, shards: Iterable[int]) -> None:
        """Reads the parts of those shards that are not known, and forgets all others.

        Raises:
            OSError: storage does not answer.
        """
        shards = set(shards)
        self.forget([shard for shard in [*self._clean, *self._mixed] if shard not in shards])
        unknown = sorted(shard for shard in shards if shard not in self)
        with ThreadPoolExecutor(_READERS) as pool:
            for shard, counts in zip(unknown, pool.map(self._read, unknown), strict=True):
                self.record(shard, counts)

    def rows_of(self, shard: int) -> int:
        """Result rows of a known shard."""
        if shard in self._clean:
            return self._clean[shard]
        return sum(sum(by_reason.values()) for by_reason in self._mixed[shard].values())

    def totals(self) -> dict[str, Counter[str | None]]:
        """Rows by status and reason, over all known shards."""
        with self._lock:
            totals: dict[str, Counter[str | None]] = {
                "done": Counter({None: sum(self._clean.values())})
            }
            for counts in self._mixed.values():
                for status, by_reason in counts.items():
                    totals.setdefault(status, Counter()).update(by_reason)
        return totals

    def failed_shards(self) -> list[int]:
        """Known shards with failed rows, ascending."""
        with self._lock:
            return sorted(shard for shard, counts in self._mixed.items() if "failed" in counts)

    def save(self, patience: storage.Patience = storage.PROMPT) -> None:
        """Writes the ledger where anything changed since it was read or saved.

        Raises:
            OSError: storage does not answer.
        """
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            columns = list(zip(*self._entries(), strict=True)) or [()] * len(_SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        storage.write_bytes(self._run.ledger, sink.getvalue().to_pybytes(), patience)

    def _entries(self) -> Iterator[tuple[int, str, str | None, int]]:
        for shard, rows in sorted(self._clean.items()):
            yield shard, "done", None, rows
        for shard, counts in sorted(self._mixed.items()):
            for status, by_reason in counts.items():
                for reason, rows in by_reason.items():
                    yield shard, status, reason, rows

    def _read(self, shard: int) -> Counts:
        part = pa.BufferReader(storage.read_bytes(self._run.part(shard)))
        return count_rows(pq.read_table(part, columns=["status", "reason"]))
