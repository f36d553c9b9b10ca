"""The ledger: how the rows of each finished shard ended, so that nobody has to open every part.

A run of 10 million rows has hundreds of thousands of parts; counting them one by one takes longer
than a person waits. The driver keeps these counts in `stats/ledger.arrow`. It is an index, not the
truth: a shard is done when its part exists, and a part that the ledger does not know, or knows by
another size, is read.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dstc.errors import RunFolderError
from dstc.store import retries, storage
from dstc.store.part_facts import facts_in
from dstc.store.results import parse_part

if TYPE_CHECKING:
    from dstc.store.run_folder import RunFolder

Counts = Mapping[str, Mapping[str | None, int]]
"""Rows by status, and in each by reason (None where there is none).

The reason of a row that is done is what its image is flagged with. Where a student had a part in a
run, MADE_BY stands beside the statuses: the same rows that are done, by what made their image.
"""
MADE_BY = "made_by"
_Entry = tuple[str, str | None, int]

_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("rows", pa.int32()),
        ("size", pa.int64()),
        ("digest", pa.int64()),
    ]
)
# Ledgers of before parts had digests lack them.
_STAMP = ("size", "digest")
_UNKNOWN_SIZE, _UNKNOWN_DIGEST = -1, 0
_COUNTED = ("status", "reason", "flagged", MADE_BY)
# Each of them is one request for one small file.
_READERS = 32


def count_rows(rows: pa.Table) -> dict[str, dict[str | None, int]]:
    """Counts rows by status and reason; parts from before there were gates flag nothing."""
    reasons = rows.column("reason")
    if "flagged" in rows.schema.names:
        reasons = pc.coalesce(reasons, rows.column("flagged"))
    outcomes = pa.table({"status": rows.column("status"), "reason": reasons})
    counts: dict[str, dict[str | None, int]] = {}
    grouped = outcomes.group_by(["status", "reason"]).aggregate([([], "count_all")])
    for row in grouped.to_pylist():
        counts.setdefault(row["status"], {})[row["reason"]] = row["count_all"]
    if MADE_BY in rows.schema.names:
        for made in pc.value_counts(rows.column(MADE_BY).drop_null()).to_pylist():
            counts.setdefault(MADE_BY, {})[made["values"]] = made["counts"]
    return counts


def rows_in(counts: Counts) -> int:
    """The rows that `count_rows` counted, each once."""
    return sum(sum(rows.values()) for status, rows in counts.items() if status != MADE_BY)


def flagged_reasons(totals: Mapping[str, Counter[str | None]]) -> dict[str, int]:
    """Of `Ledger.totals`, the rows that are done and flagged, by what; most frequent first."""
    done = totals["done"].most_common()
    return {reason: rows for reason, rows in done if reason is not None}


def made_by(totals: Mapping[str, Counter[str | None]]) -> dict[str, int]:
    """Of `Ledger.totals`, the rows that are done by what made them; empty without a student."""
    return {str(maker): rows for maker, rows in totals.get(MADE_BY, Counter()).most_common()}


class Ledger:
    """Counts of finished shards; may be used from several threads.

    Args:
        run: whose shards.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._lock = threading.Lock()
        # Shards that ended alike share one record of it. 10 million rows, 15 % of them flagged, are
        # 625,000 shards with 2,000 endings: 42 MB, and totals in 0.03 s.
        self._shards: dict[int, int] = {}
        self._endings: list[tuple[_Entry, ...]] = []
        self._numbers: dict[tuple[_Entry, ...], int] = {}
        # (size, digest) by shard: 10 MB for 625,000, a tenth of what a dict of them takes.
        self._stamps: npt.NDArray[np.int64] = np.empty((0, 2), np.int64)
        self._changed = False

    @classmethod
    def open(cls, run: RunFolder) -> Ledger:
        """The ledger as it was saved last; an empty one where there is none that can be read."""
        ledger = cls(run)
        try:
            with pa.ipc.open_stream(storage.read_bytes(run.ledger)) as reader:
                table = reader.read_all()
            for name in _STAMP:
                if name not in table.schema.names:
                    table = table.append_column(name, pa.nulls(table.num_rows, pa.int64()))
            columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
        except (FileNotFoundError, NotADirectoryError, pa.ArrowException, KeyError):
            return ledger
        found: dict[int, dict[str, dict[str | None, int]]] = {}
        stamps: dict[int, tuple[int | None, int | None]] = {}
        for shard, status, reason, rows, size, digest in zip(*columns, strict=True):
            found.setdefault(shard, {}).setdefault(status, {})[reason] = rows
            stamps[shard] = size, digest
        for shard, counts in found.items():
            size, digest = stamps[shard]
            ledger.record(
                shard,
                counts,
                digest=_UNKNOWN_DIGEST if digest is None else digest,
                size=_UNKNOWN_SIZE if size is None else size,
            )
        ledger._changed = False
        return ledger

    def __contains__(self, shard: int) -> bool:
        return shard in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    def record(
        self,
        shard: int,
        counts: Counts,
        digest: int = _UNKNOWN_DIGEST,
        size: int = _UNKNOWN_SIZE,
    ) -> None:
        """A shard's part was written with these counts, whatever was known of it before.

        Args:
            digest: `PartFacts.digest` of the part. size: its bytes; where it is not given, it is
                taken from storage by the next `complete`.
        """
        entries = (
            (status, reason, rows)
            for status, by_reason in counts.items()
            for reason, rows in by_reason.items()
        )
        ending = tuple(sorted(entries, key=lambda entry: (entry[0], entry[1] or "")))
        with self._lock:
            number = self._numbers.setdefault(ending, len(self._endings))
            if number == len(self._endings):
                self._endings.append(ending)
            self._shards[shard] = number
            if shard >= len(self._stamps):
                grown = np.empty((max(64, 2 * shard + 1), 2), np.int64)
                grown[: len(self._stamps)] = self._stamps
                self._stamps = grown
            self._stamps[shard] = size, digest
            self._changed = True

    def forget(self, shards: Iterable[int]) -> None:
        """Drops shards that are about to run again, or whose part is gone."""
        with self._lock:
            for shard in shards:
                if self._shards.pop(shard, None) is not None:
                    self._changed = True

    def complete(self, shards: Iterable[int] | Mapping[int, int]) -> dict[int, str]:
        """Reads the parts of those shards that are not known, and forgets all others.

        Args:
            shards: whose parts exist; as a mapping, with the bytes of each
                (`RunFolder.part_sizes`): a part that is known by another size is read again.

        Returns:
            By shard, why its part cannot be read: it counts as missing, and is not in the ledger.

        Raises:
            OSError: storage does not answer.
        """
        if isinstance(shards, Mapping):
            self._check_sizes(shards)
        shards = set(shards)
        self.forget([shard for shard in self._shards if shard not in shards])
        unknown = sorted(shard for shard in shards if shard not in self)
        damaged = {}
        with ThreadPoolExecutor(_READERS) as pool:
            for shard, found in zip(unknown, pool.map(self._read, unknown), strict=True):
                if isinstance(found, str):
                    damaged[shard] = found
                    continue
                counts, digest, size = found
                self.record(shard, counts, digest, size)
        return damaged

    def _check_sizes(self, sizes: Mapping[int, int]) -> None:
        changed = []
        with self._lock:
            for shard in self._shards:
                if (size := sizes.get(shard)) is None:
                    continue
                if self._stamps[shard, 0] == _UNKNOWN_SIZE:
                    self._stamps[shard, 0] = size
                    self._changed = True
                elif self._stamps[shard, 0] != size:
                    changed.append(shard)
        self.forget(changed)

    def known(self) -> list[int]:
        """The shards that it knows, ascending."""
        with self._lock:
            return sorted(self._shards)

    def digest_of(self, shard: int) -> int:
        """Digest of a known shard's manifest rows; 0 when unknown."""
        return int(self._stamps[shard, 1])

    def rows_of(self, shard: int) -> int:
        """Result rows of a known shard."""
        ending = self._endings[self._shards[shard]]
        return sum(rows for status, _, rows in ending if status != MADE_BY)

    def totals(self) -> dict[str, Counter[str | None]]:
        """Rows by status and reason, over all known shards; "done" always among them."""
        totals: dict[str, Counter[str | None]] = {"done": Counter()}
        with self._lock:
            for number, shards in Counter(self._shards.values()).items():
                for status, reason, rows in self._endings[number]:
                    totals.setdefault(status, Counter())[reason] += shards * rows
        return totals

    def failed_shards(self) -> list[int]:
        """Known shards with failed rows, ascending."""
        return self._shards_with(lambda status, reason: status == "failed")

    def rejected_shards(self) -> list[int]:
        """Known shards with rejected rows, ascending."""
        return self._shards_with(lambda status, reason: status == "rejected")

    def flagged_shards(self) -> list[int]:
        """Known shards with rows that are done and flagged, ascending."""
        return self._shards_with(lambda status, reason: status == "done" and reason is not None)

    def _shards_with(self, wanted: Callable[[str, str | None], bool]) -> list[int]:
        with self._lock:
            having = {
                number
                for number, ending in enumerate(self._endings)
                if any(wanted(status, reason) for status, reason, _ in ending)
            }
            return sorted(shard for shard, number in self._shards.items() if number in having)

    def save(self, patience: retries.Patience = retries.PROMPT) -> None:
        """Writes the ledger where anything changed since it was read or saved.

        Raises:
            OSError: storage does not answer.
        """
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            columns = list(zip(*self._rows(), strict=True)) or [()] * len(_SCHEMA)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
        storage.write_bytes(self._run.ledger, sink.getvalue().to_pybytes(), patience)

    def _rows(self) -> Iterator[tuple[int, str, str | None, int, int, int]]:
        for shard, number in sorted(self._shards.items()):
            size, digest = self._stamps[shard].tolist()
            for status, reason, rows in self._endings[number]:
                yield shard, status, reason, rows, size, digest

    def _read(self, shard: int) -> tuple[Counts, int, int] | str:
        try:
            data = storage.read_bytes(self._run.part(shard))
            rows = parse_part(data, self._run.part_name(shard), _COUNTED)
            counts = count_rows(rows)
        except FileNotFoundError:
            return f"{self._run.part_name(shard)}: it is not there any more"
        except (RunFolderError, KeyError) as error:
            return str(error)
        return counts, facts_in(rows.schema, rows.num_rows).digest, len(data)
