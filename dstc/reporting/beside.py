"""Another run beside the one of a page: which of its rows have the ids of rows that are shown.

Its ids are read part by part and nothing of them is kept; of the few rows that are looked for, only
the columns that a page needs are read.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dstc.reporting.flags import FLAGGED, flags_of
from dstc.reporting.measures import measures_of
from dstc.reporting.parts import THREADS, open_part, take_rows
from dstc.reporting.texts import text_of
from dstc.store import retries
from dstc.store.cells import read_records, texts
from dstc.store.json_record import Record
from dstc.store.ledger import MADE_BY
from dstc.store.results import DONE
from dstc.store.run_folder import RunFolder
from dstc.text import describe, shown

_COLUMNS = (
    *("id", "status", "reason", "image", "seconds", "slots", FLAGGED),
    *(MADE_BY, "gate_distances", "losses"),
)
# Ids at once: some megabytes of a part.
_IDS = 1 << 16


@dataclass(frozen=True)
class Beside:
    """Another run, as far as a page shows it.

    Attributes:
        run: its folder. job, summary: its job.json and summary.json.
        rows: by id, those of its result rows that were looked for; each with its `shard` and its
            `offset`. parts: (shard, rows) of its parts. measures: the metrics of `rows`, by id.
        unreadable: what is wrong with each part that could not be read.
    """

    run: RunFolder
    job: Record
    summary: Record
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: Sequence[tuple[int, int]] = ()
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unreadable: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.run.uri) or self.run.uri

    @property
    def ended(self) -> int:
        """Its rows that have a result."""
        return sum(rows for _, rows in self.parts)

    @property
    def is_finished(self) -> bool:
        """Whether every row that it was to make has a result."""
        return bool(self.summary.values) and self.summary.values.get("rows") == self.ended

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of it."""
        notes = []
        if not self.is_finished:
            notes.append(
                f"{self.name}, the run beside, is not finished: {self.ended:,} of its rows "
                f"{'has' if self.ended == 1 else 'have'} a result by now."
            )
        if bad := self.unreadable:
            notes.append(
                f"{self.name}, the run beside: parts that cannot be read: {len(bad):,}. "
                f"The first: {bad[0]}"
            )
        return notes

    def image_of(self, row_id: str) -> str | None:
        """Path of a row's image, relative to the run's folder; None where it has none."""
        row = self.rows.get(row_id, {})
        image = row.get("image")
        return image if row.get("status") == DONE and isinstance(image, str) else None

    def why_none(self, row_id: str) -> str:
        """Why a row has no image there, in a few words."""
        row = self.rows.get(row_id)
        if row is None:
            if self.unreadable:
                return "not in what can be read of that run"
            return "not in that run" if self.is_finished else "no result in that run yet"
        return ": ".join(filter(None, (text_of(row.get(name)) for name in ("status", "reason"))))

    def caption_of(self, row_id: str) -> str:
        """What is written below a row's image: the run, what made the image, its flags."""
        row = self.rows.get(row_id, {})
        words = [f"beside: {self.name}"]
        if row.get(MADE_BY):
            words.append(f"by {shown(row[MADE_BY])}")
        if flags := flags_of(row.get(FLAGGED)):
            words.append(f"flagged {' '.join(flags)}")
        return ", ".join(words)


@dataclass
class _Part:
    rows: int
    found: list[dict[str, Any]]


def read_beside(
    run: RunFolder, job: Record, summary: Record, shards: Sequence[int], ids: Collection[str]
) -> Beside:
    """Looks for some ids in all parts of a run.

    Args:
        run: the run beside. job, summary: its records. shards: those that have results.
        ids: to look for. Of rows that share an id the first counts: the others were rejected.
    """
    wanted = pa.array(sorted(ids), pa.large_string())
    rows: dict[str, dict[str, Any]] = {}
    parts, unreadable = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda shard: _read_part(run, shard, wanted), shards)
        for shard, part in zip(shards, read, strict=True):
            if isinstance(part, str):
                unreadable.append(part)
                continue
            parts.append((shard, part.rows))
            for row in part.found:
                rows.setdefault(row["id"], row)
    measures = measures_of(run, parts, list(rows.values()))
    return Beside(
        run, job, summary, rows, parts, dict(zip(rows, measures, strict=True)), unreadable
    )


def _read_part(run: RunFolder, shard: int, ids: pa.Array) -> _Part | str:
    def read() -> _Part:
        with open_part(run, shard) as parquet:
            rows, names = parquet.metadata.num_rows, parquet.schema_arrow.names
            offsets: dict[str, int] = {}
            start = 0
            for batch in parquet.iter_batches(_IDS, columns=["id"]):
                column = batch.column("id").cast(pa.large_string())
                hits = pc.indices_nonzero(pc.is_in(column, value_set=ids))
                for row_id, offset in zip(column.take(hits), hits, strict=True):
                    offsets.setdefault(row_id.as_py(), start + offset.as_py())
                start += batch.num_rows
            if not offsets:
                return _Part(rows, [])
            places = sorted(offsets.values())
            taken = take_rows(parquet, [name for name in _COLUMNS if name in names], places)
            records = [texts(record) for row in taken for record in read_records(row)]
        placed = zip(records, places, strict=True)
        return _Part(rows, [{**row, "shard": shard, "offset": offset} for row, offset in placed])

    try:
        return retries.with_retries(read)
    except Exception as error:  # one broken part may not take the page down
        return f"{run.part(shard).rpartition('/')[2]}: {describe(error)}"
