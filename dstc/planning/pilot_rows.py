"""Which rows of a manifest its pilot has: of every look that repeats enough, an equal share.

The first rows of a manifest may all be of one look, and of one kind of content. So a look's rows
are those whose ids have the lowest hashes: the same ones each time, from all over the manifest.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dstc.errors import SettingsError
from dstc.store import urls
from dstc.store.cells import is_blank, read_cell
from dstc.store.duplicates import hash_ids
from dstc.store.manifest import TEXT_COLUMNS, Manifest
from dstc.worker.read_shards import read_file

# Looks that are told apart: with more, no pilot has its share of each.
MOST_LOOKS = 10_000
_NAMED = 3

_Look = tuple[str | None, str | None]


@dataclass(frozen=True)
class LookShare:
    """A look of a manifest.

    Attributes:
        style: URI of its style image as the manifest has it. prompt: its prompt.
        rows: of the manifest that a pilot could have. pilot: of them, those that it has.
    """

    style: str | None
    prompt: str | None
    rows: int
    pilot: int

    def __str__(self) -> str:
        parts = [f"style {self.style}"] if self.style else []
        parts += [f"prompt {self.prompt!r:.60}"] if self.prompt else []
        return ", ".join(parts)


@dataclass(frozen=True)
class PilotRows:
    """The rows of a pilot.

    Attributes:
        rows: their numbers in the manifest, ascending.
        looks: those that it has, the most frequent first.
        other_looks, other_rows: looks with fewer rows than a student learns from, and their rows.
    """

    rows: Sequence[int]
    looks: Sequence[LookShare]
    other_looks: int
    other_rows: int


def choose_pilot_rows(
    manifest: Manifest, rows: int, least_rows: int, left_out: Container[int] = ()
) -> PilotRows:
    """Chooses the rows of a pilot: as many of each look, or all of them where it has fewer.

    Rows with a mask teach nothing of their look, and rows without an id, a content or a look end
    rejected: they are none of the pilot's.

    Args:
        manifest: all of its rows are looked at. rows: of the pilot, at most.
        least_rows: that a look needs to be learned.
        left_out: numbers of rows that are not chosen.

    Raises:
        SettingsError: no look repeats so often, or there are more looks than rows for them.
        ManifestError: the manifest cannot be read any more.

    Example:
        choose_pilot_rows(open_manifest("rows.parquet", 16), 300, least_rows=100).rows
    """
    if rows >= manifest.all_rows:
        raise SettingsError(
            f"--pilot {rows}: the manifest has {manifest.all_rows:,} rows, and guidance would make "
            "them all; expected fewer, or no --pilot"
        )
    counts: dict[_Look, int] = defaultdict(int)
    lowest: dict[_Look, list[tuple[int, int]]] = defaultdict(list)
    for row, rank, look in _rows_with_a_look(manifest, left_out):
        counts[look] += 1
        if len(counts) > MOST_LOOKS:
            raise SettingsError(
                f"--pilot {rows}: found more than {MOST_LOOKS:,} looks in the first {row + 1:,} "
                f"rows; expected few, each in {least_rows} rows or more: a look that does not "
                "repeat is learned by no student. Leave --pilot out"
            )
        kept = lowest[look]
        if len(kept) < rows:
            heapq.heappush(kept, (-rank, -row))
        else:
            heapq.heappushpop(kept, (-rank, -row))
    shares = _shares(counts, rows, least_rows)
    chosen = [
        -row for look, share in shares.items() for _, row in heapq.nlargest(share, lowest[look])
    ]
    looks = [LookShare(*look, counts[look], share) for look, share in shares.items()]
    others = [count for look, count in counts.items() if look not in shares]
    return PilotRows(
        rows=sorted(chosen),
        looks=sorted(looks, key=lambda look: -look.rows),
        other_looks=len(others),
        other_rows=sum(others),
    )


def pilot_table(manifest: Manifest, rows: Sequence[int]) -> pa.Table:
    """The rows of a pilot as a manifest that may lie anywhere: their URIs made absolute.

    Args:
        rows: their numbers in the manifest, ascending.

    Returns:
        Their known columns; labels are of no use for learning.
    """
    names = [*(name for name in TEXT_COLUMNS if name != "mask"), "seed"]
    wanted = np.asarray(rows, np.int64)
    parts = []
    for first, table in _pieces(manifest, names):
        low, high = np.searchsorted(wanted, [first, first + len(table)])
        if low < high:
            parts.append(table.take(pa.array(wanted[low:high] - first)))
    chosen = pa.concat_tables(parts)
    for name in {"content", "style"} & set(chosen.schema.names):
        uris = [uri and urls.resolve(uri, manifest.folder) for uri in _values(chosen[name])]
        place = chosen.schema.get_field_index(name)
        chosen = chosen.set_column(place, name, pa.array(uris, pa.string()))
    return chosen.replace_schema_metadata(None)


def _pieces(manifest: Manifest, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Some columns of all rows, with the number of each table's first row."""
    schema = pa.schema([field for field in manifest.schema if field.name in names])
    for file in manifest.files:
        yield from read_file(file, schema)


def _rows_with_a_look(
    manifest: Manifest, left_out: Container[int]
) -> Iterator[tuple[int, int, _Look]]:
    """(number, hash of its id, look) of each row that a pilot may have."""
    for first, table in _pieces(manifest, ("id", "content", "style", "prompt", "mask")):
        ids, contents, styles, prompts, masks = (
            _texts(table, name) for name in ("id", "content", "style", "prompt", "mask")
        )
        ranks = hash_ids(table["id"].combine_chunks()).tolist()
        for place, rank in enumerate(ranks):
            style, prompt = styles[place], prompts[place]
            if masks[place] or not (ids[place] and contents[place] and (style or prompt)):
                continue
            if first + place not in left_out:
                yield first + place, rank, (style, prompt)


def _texts(table: pa.Table, name: str) -> list[str | None]:
    """A column's texts; None where there is nothing to be seen, or nothing that Python can hold."""
    if name not in table.schema.names:
        return [None] * len(table)
    return [
        text if isinstance(text, str) and not is_blank(text) else None
        for text in _values(table[name])
    ]


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = [read_cell(cell) for cell in column]
    return values


def _shares(counts: Mapping[_Look, int], rows: int, least_rows: int) -> dict[_Look, int]:
    """Rows of the pilot by look, of those looks that repeat often enough."""
    often = {look: count for look, count in counts.items() if count >= least_rows}
    if not often:
        most = max(counts.values(), default=0)
        raise SettingsError(
            f"--pilot {rows}: the manifest has {len(counts):,} looks, the most frequent one in "
            f"{most} rows that a student could learn from; expected {least_rows} or more of one "
            "(least_rows). Leave --pilot out"
        )
    if len(often) * least_rows > rows:
        names = [str(LookShare(*look, count, 0)) for look, count in often.items()]
        more = f"; and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        raise SettingsError(
            f"--pilot {rows}: the manifest has {len(often):,} looks in {least_rows} rows or more "
            f"({'; '.join(names[:_NAMED])}{more}), and a student learns each from {least_rows} or "
            f"more (least_rows): expected --pilot {len(often) * least_rows} at least, and some "
            "more for rows that fail or are flagged; or a manifest of fewer looks"
        )
    shares, left = {}, rows
    ordered = sorted(often, key=lambda look: (often[look], look[0] or "", look[1] or ""))
    for number, look in enumerate(ordered):
        shares[look] = min(often[look], left // (len(ordered) - number))
        left -= shares[look]
    return shares
