"""Names the rows that have results and are not in the manifest any more as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dstc.store.cells import read_cell
from dstc.store.manifest import Manifest
from dstc.store.results import read_part
from dstc.store.row_digests import KNOWN_COLUMNS, describe_change
from dstc.store.run_folder import RunFolder
from dstc.text import shown
from dstc.worker.read_shards import read_file

_SHOWN = 3


@dataclass(frozen=True)
class LostRow:
    """A result row whose manifest row was not found.

    Attributes:
        shard: its part. place: in it. is_doubled: the row is there, and has a result already.
    """

    shard: int
    place: int
    is_doubled: bool


def describe_lost_rows(run: RunFolder, manifest: Manifest, lost: Sequence[LostRow]) -> str:
    """What became of them, and what to do; the first ones are named.

    Args:
        lost: one or more.

    Returns:
        For example "1 row with a result is not as the run has it: row 'cat-7': prompt was 'a cat',
        and is 'a dog' now. ..."
    """
    first = lost[:_SHOWN]
    parts = [
        read_part(run, row.shard, [*KNOWN_COLUMNS]).slice(row.place, 1).combine_chunks()
        for row in first
    ]
    now = _rows_of(manifest, [row_id for row_id in map(_id_of, parts) if row_id is not None])
    texts = [_describe(run, row, part, now) for row, part in zip(first, parts, strict=True)]
    more = f"; and {len(lost) - _SHOWN:,} more" if len(lost) > _SHOWN else ""
    which = "1 row with a result is" if len(lost) == 1 else f"{len(lost):,} rows with results are"
    return (
        f"{which} not as the run has it: {'; '.join(texts)}{more}. Rows with results stay: put "
        "them back as they were, and give a row that is to be made anew another id; or give "
        "another output folder"
    )


def _describe(run: RunFolder, row: LostRow, part: pa.Table, now: Mapping[str, pa.Table]) -> str:
    row_id, name = _id_of(part), run.part_name(row.shard)
    if row_id is None:
        return f"a row without a usable id is another one or gone (row {row.place} of {name})"
    if row.is_doubled:
        return f"row {shown(row_id)!r} has a second result, in {name} (`dstc verify` tells more)"
    if row_id not in now:
        return f"row {shown(row_id)!r} is gone from the manifest"
    return describe_change(part, now[row_id])


def _id_of(row: pa.Table) -> str | None:
    """The id of one row; None where it is empty, or no text."""
    found = read_cell(row.column("id")[0])
    return found if isinstance(found, str) else None


def _rows_of(manifest: Manifest, ids: Sequence[str]) -> dict[str, pa.Table]:
    """The rows that have these ids now; of several the first."""
    schema = pa.schema([column for column in manifest.schema if column.name in KNOWN_COLUMNS])
    found: dict[str, pa.Table] = {}
    for file in manifest.files:
        for _, rows in read_file(file, schema):
            for row_id in ids:
                at = pc.index(rows.column("id"), row_id).as_py()
                if at >= 0:
                    found.setdefault(row_id, rows.slice(at, 1))
    return found
