"""Result rows kept from earlier attempts at a shard: its part, and rows of one that died."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dstc.store import retries
from dstc.store.results import (
    DONE,
    FAILED,
    REJECTED,
    Outcome,
    read_outcome,
    read_part,
    read_rows_so_far,
    result_schema,
)
from dstc.store.run_folder import RunFolder


@dataclass(frozen=True)
class EarlierRows:
    """Result rows kept from earlier attempts at a shard.

    Attributes:
        kept: rows that stay as they are. places: of each, in the shard.
        flagged: by place, rows that stay too unless another seed makes a better image.
        has_saved: there is a file of `save_rows_so_far`.
    """

    kept: pa.Table
    places: Sequence[int]
    flagged: Mapping[int, Outcome]
    has_saved: bool


def find_earlier_rows(
    run: RunFolder, shard: int, rows: pa.Table, is_rerun: bool, retry: str | None
) -> EarlierRows:
    """Finds the result rows that earlier attempts at a shard left.

    Args:
        rows: of the manifest. is_rerun: an attempt before this one did not end.
        retry: of `Settings`. "rejected" and "flagged" leave failed rows of the part as they are,
            and try its rejected or flagged ones again. An attempt that died may have tried some of
            them already: of two rows in one place the one that was tried more often counts.
    """
    schema = result_schema(rows.schema)
    part = _read_part(run, shard)
    saved = read_rows_so_far(run, shard) if is_rerun else None
    found, places = schema.empty_table(), list[int]()
    from_part = 0
    for table, at in [(part, range(part.num_rows)), *([saved] if saved else [])]:
        try:
            found = pa.concat_tables([found, table.cast(schema)])
        except (pa.ArrowException, ValueError):
            continue  # of another version of this program: its rows run again
        places += at
        if table is part:
            from_part = table.num_rows
    status, flagged, retries = (
        found.column(name).to_pylist() for name in ("status", "flagged", "retries")
    )

    def stands(row: int) -> bool:
        if status[row] == FAILED:
            return retry in ("rejected", "flagged") and row < from_part
        return status[row] == DONE or (status[row] == REJECTED and retry != "rejected")

    best: dict[int, int] = {}
    for row, place in enumerate(places):
        if stands(row) and place < rows.num_rows:
            before = best.setdefault(place, row)
            best[place] = row if retries[row] > retries[before] else before
    again = {
        place
        for place, row in best.items()
        if retry == "flagged" and row < from_part and status[row] == DONE and flagged[row]
    }
    kept = [place for place in best if place not in again]
    return EarlierRows(
        kept=found.take(pa.array([best[place] for place in kept], pa.int64())),
        places=kept,
        flagged={
            place: read_outcome(found.slice(best[place], 1).to_pylist()[0]) for place in again
        },
        has_saved=saved is not None,
    )


def _read_part(run: RunFolder, shard: int) -> pa.Table:
    try:
        return read_part(run, shard, patience=retries.STEADY)
    except (FileNotFoundError, pa.ArrowException):
        return pa.table({})
