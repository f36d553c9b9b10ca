"""Compares a result part with the manifest rows that it should be of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dstc.store.faults import BAD_STATUS, CHANGED_ROW, DOUBLED_ID, FOREIGN_ROW, LOST_ROW, Fault
from dstc.store.part_facts import facts_in
from dstc.store.results import STATUSES
from dstc.store.row_digests import KNOWN_COLUMNS, changed_rows, describe_change, digest_rows
from dstc.text import shown


@dataclass(frozen=True)
class CheckedPart:
    """What a comparison found.

    Attributes:
        faults: in the order of rows.
        places: by row of the part, the row of the shard whose result it is; rows with a fault are
            left out.
    """

    faults: Sequence[Fault]
    places: dict[int, int]


def check_part(name: str, part: pa.Table, rows: pa.Table, wanted: int) -> CheckedPart:
    """Compares result rows with manifest rows.

    Args:
        name: of the part, for faults.
        part: its rows. rows: those of the manifest, all of the shard.
        wanted: so many of these, from the first, must have a result.
    """
    ids, own = part.column("id").to_pylist(), rows.column("id").to_pylist()
    faults, places = [], dict[int, int]()
    free: dict[object, list[int]] = defaultdict(list)
    for place in reversed(range(len(own))):
        if place >= len(ids) or ids[place] != own[place]:
            free[own[place]].append(place)
    for row, row_id in enumerate(ids):
        if row < len(own) and row_id == own[row]:
            places[row] = row
        elif free.get(row_id):
            places[row] = free[row_id].pop()
        else:
            kind = DOUBLED_ID if row_id in own else FOREIGN_ROW
            expected = "one row of it" if row_id in own else "an id of the shard's manifest rows"
            what = f"id {shown(row_id)!r} in row {row}; expected {expected}"
            faults.append(Fault(kind, name, what))
    found = set(places.values())
    for place in range(wanted):
        if place not in found:
            what = f"id {shown(own[place])!r} has no result; expected one in row {place}"
            faults.append(Fault(LOST_ROW, name, what))
    wrong = list(_wrong_rows(name, part, rows, places))
    for row, fault in wrong:
        places.pop(row, None)
        faults.append(fault)
    return CheckedPart(faults, places)


def _wrong_rows(
    name: str, part: pa.Table, rows: pa.Table, places: dict[int, int]
) -> Iterator[tuple[int, Fault]]:
    held = list(places)
    # Extra columns may be of types that Arrow holds and cannot take rows of.
    there, here = (
        table.select([name for name in KNOWN_COLUMNS if name in table.schema.names]).take(
            pa.array(at, pa.int64())
        )
        for table, at in ((part, held), (rows, list(places.values())))
    )
    digests, before = digest_rows(here), facts_in(part.schema, part.num_rows).digests
    changed = set(changed_rows(there, here, digests, None))
    if before is not None:
        changed |= set(changed_rows(there, here, digests, before[held]))
    for at in sorted(changed):
        what = describe_change(there.slice(at, 1), here.slice(at, 1))
        yield held[at], Fault(CHANGED_ROW, name, what)
    for row, status in enumerate(part.column("status").to_pylist()):
        if status not in STATUSES:
            what = f"row {row}: status {shown(status)!r}; expected one of {', '.join(STATUSES)}"
            yield row, Fault(BAD_STATUS, name, what)
