"""Result rows kept from earlier attempts at a shard: its part, and rows of one that died."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dstc.errors import ManifestError, RunFolderError
from dstc.store import retries
from dstc.store.check_part import check_part
from dstc.store.faults import CHANGED_ROW
from dstc.store.part_facts import facts_in
from dstc.store.results import (
    DONE,
    FAILED,
    OUTCOME_SCHEMA,
    REJECTED,
    Outcome,
    as_outcomes,
    read_outcome,
    read_part,
    read_rows_so_far,
)
from dstc.store.row_digests import KNOWN_COLUMNS, Digests, changed_rows, describe_change
from dstc.store.run_folder import RunFolder

log = logging.getLogger(__name__)

# Others may be of types that Arrow writes and cannot read.
_COLUMNS = tuple(dict.fromkeys([*KNOWN_COLUMNS, *OUTCOME_SCHEMA.names]))


@dataclass(frozen=True)
class EarlierRows:
    """Result rows kept from earlier attempts at a shard.

    Attributes:
        kept: outcomes that stay as they are, in OUTCOME_SCHEMA; all other columns of a result are
            the manifest's, and are taken from there. places: of each, in the shard.
        flagged: by place, rows that stay too unless another seed makes a better image.
        has_saved: there is a file of `save_rows_so_far`.
        attempt: that wrote the part; 0 where there is none, or it does not say.
    """

    kept: pa.Table
    places: Sequence[int]
    flagged: Mapping[int, Outcome]
    has_saved: bool
    attempt: int = 0


def find_earlier_rows(
    run: RunFolder,
    shard: int,
    rows: pa.Table,
    is_rerun: bool,
    retry: str | None,
    digests: Digests | None = None,
    wanted: int | None = None,
) -> EarlierRows:
    """Finds the result rows that earlier attempts at a shard left.

    Args:
        rows: of the manifest. is_rerun: an attempt before this one did not end.
        retry: of `Settings`. "rejected" and "flagged" leave failed rows of the part as they are,
            and try its rejected or flagged ones again. An attempt that died may have tried some of
            them already: of two rows in one place the one that was tried more often counts.
        digests: of the manifest rows; results of other rows are not kept.
        wanted: a `--limit` cuts the shard after so many rows: rows of the part beyond stay as they
            are, whatever they are.

    Raises:
        ManifestError: the part was made from other manifest rows.
    """
    part = _read_part(run, shard)
    facts, places_in_part = facts_in(part.schema, part.num_rows), list(range(part.num_rows))
    if part.num_rows and digests is not None:
        part, places_in_part = _of_the_manifest(run, shard, part, rows, digests)
    saved = read_rows_so_far(run, shard) if is_rerun else None
    if saved is not None and digests is not None:
        saved = _of_these_rows(run, shard, *saved, digests)
    found, places = OUTCOME_SCHEMA.empty_table(), list[int]()
    from_part = 0
    for table, at in [(part, places_in_part), *([saved] if saved else [])]:
        try:
            found = pa.concat_tables([found, as_outcomes(table)])
        except (pa.ArrowException, ValueError, KeyError):
            continue  # of another version of this program: its rows run again
        places += at
        if table is part:
            from_part = table.num_rows
    status, flagged, retries = (
        found.column(name).to_pylist() for name in ("status", "flagged", "retries")
    )

    def stands(row: int) -> bool:
        if wanted is not None and places[row] >= wanted:
            return row < from_part  # of those alone it is known that all before them ended
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
        if wanted is None or place < wanted
    }
    kept = [place for place in best if place not in again]
    return EarlierRows(
        kept=found.take(pa.array([best[place] for place in kept], pa.int64())),
        places=kept,
        flagged={
            place: read_outcome(found.slice(best[place], 1).to_pylist()[0]) for place in again
        },
        has_saved=saved is not None,
        attempt=facts.attempt,
    )


def _read_part(run: RunFolder, shard: int) -> pa.Table:
    try:
        return read_part(run, shard, _COLUMNS, patience=retries.STEADY)
    except FileNotFoundError:
        return pa.table({})
    except RunFolderError as error:
        log.warning("%s", error)
        return pa.table({})


def _of_the_manifest(
    run: RunFolder, shard: int, part: pa.Table, rows: pa.Table, digests: Digests
) -> tuple[pa.Table, list[int]]:
    """The rows of a part that are of manifest rows, and the places of these in the shard.

    Raises:
        ManifestError: one is of a manifest row that is another now.
    """
    name = run.part_name(shard)
    before = facts_in(part.schema, part.num_rows).digests
    if before is not None:
        places = list(range(part.num_rows))
        at = changed_rows(part, rows, digests, before)
        changes = [describe_change(part.slice(row, 1), rows.slice(row, 1)) for row in at]
    else:  # of before there were digests, or it lost some rows
        checked = check_part(name, part, rows, 0)
        changes = [fault.what for fault in checked.faults if fault.kind == CHANGED_ROW]
        for fault in checked.faults:
            log.warning("%s: %s", name, fault.what)
        places = list(checked.places.values())
        part = part.take(pa.array(list(checked.places), pa.int64()))
    if changes:
        raise ManifestError(
            f"{name} was made from other manifest rows: {changes[0]}"
            + (f"; and {len(changes) - 1} more rows of it" if len(changes) > 1 else "")
            + ". Bring back the manifest that the run began with, or give another output folder; "
            "`dstc verify OUTPUT --repair` makes these rows anew from the manifest as it is"
        )
    return part, places


def _of_these_rows(
    run: RunFolder, shard: int, found: pa.Table, places: Sequence[int], here: Digests
) -> tuple[pa.Table, list[int]]:
    """Of rows so far, those of the manifest rows that stand there now."""
    there = facts_in(found.schema, found.num_rows).digests
    found = found.replace_schema_metadata(None)
    if there is None:
        return found, list(places)
    fits = [p < len(here) and there[row] == here[p] for row, p in enumerate(places)]
    if not all(fits):
        log.warning(
            "%s: %d rows so far are of other manifest rows, and run again",
            run.part_name(shard),
            len(fits) - sum(fits),
        )
    return found.filter(pa.array(fits, pa.bool_())), [
        p for p, fit in zip(places, fits, strict=True) if fit
    ]
