"""Which parts of an earlier command are kept: readable, whole, and of the manifest's own rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dstc.errors import ManifestError
from dstc.store.ledger import Ledger
from dstc.store.manifest import Manifest, ManifestFile, Numbers, Shard
from dstc.store.part_facts import facts_in
from dstc.store.results import read_part
from dstc.store.row_digests import (
    KNOWN_COLUMNS,
    Digests,
    changed_rows,
    describe_change,
    digest_parts,
    digest_rows,
    digest_shards,
)
from dstc.store.row_order import OrderedManifest, spans
from dstc.store.run_folder import RunFolder
from dstc.worker.read_shards import ROWS_AT_ONCE, read_file, read_shards

_READERS = 8


@dataclass(frozen=True)
class KeptParts:
    """The parts of a run folder.

    Attributes:
        done: shards of the manifest whose part holds all their rows.
        ledger: counts of all parts that can be read.
        damaged: by shard of the manifest, why its part counts as missing: it is gone, cannot be
            read, or has fewer rows than the plan, or more than its shard.
    """

    done: set[int]
    ledger: Ledger
    damaged: Mapping[int, str]


def find_kept_parts(run: RunFolder, manifest: Manifest) -> KeptParts:
    """Looks at the parts that are there; opens only those that the ledger does not know.

    Raises:
        OSError: storage does not answer.
    """
    ledger, sizes = Ledger.open(run), run.part_sizes()
    lost = {
        shard: f"{run.part_name(shard)}: not found; expected a part, since the ledger knows it"
        for shard in ledger.known()
        if shard not in sizes
    }
    unreadable = ledger.complete(sizes)
    shards = [shard for shard in ledger.known() if shard < manifest.shards]
    held = np.fromiter((ledger.rows_of(shard) for shard in shards), np.int64, len(shards))
    wanted = manifest.rows_of_each(shards)
    most = dataclasses.replace(manifest, rows=manifest.all_rows).rows_of_each(shards)
    is_whole = (wanted <= held) & (held <= most)
    done = {shard for shard, is_done in zip(shards, is_whole, strict=True) if is_done}
    short = {
        shards[at]: f"{run.part_name(shards[at])}: found {held[at]} rows; expected {wanted[at]}"
        for at in np.flatnonzero(~is_whole).tolist()
    }
    gone = {s: why for s, why in {**lost, **unreadable}.items() if s < manifest.shards}
    return KeptParts(done, ledger, {**short, **gone})


def refuse_other_rows(run: RunFolder, manifest: Manifest, ledger: Ledger) -> None:
    """Compares the manifest's rows with those that the kept parts were made from.

    The files' footers, which the run's identity has, do not show that two prompts were swapped. So
    the known columns are read once where there are parts: 500,000 rows take a second of a core.

    Args:
        ledger: its shards are kept. Those of before parts had digests are not compared.

    Raises:
        ManifestError: a row differs; it is named.
        OSError: storage does not answer.
    """
    known = (shard for shard in ledger.known() if shard < manifest.shards)
    kept = np.fromiter((shard for shard in known if ledger.digest_of(shard)), np.int64)
    schema = pa.schema([field for field in manifest.schema if field.name in KNOWN_COLUMNS])

    def changed_in(file: ManifestFile) -> list[int]:
        stop = file.first_shard + -(-file.rows // manifest.rows_per_shard)
        low, high = np.searchsorted(kept, [file.first_shard, stop])
        here = kept[low:high] - file.first_shard
        return list(_changed_shards(manifest, file, here, ledger, schema)) if len(here) else []

    if isinstance(manifest, OrderedManifest):
        changed = _changed_in_order(manifest, kept, ledger)
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            changed = [shard for found in pool.map(changed_in, manifest.files) for shard in found]
    if changed:
        raise ManifestError(
            _describe(run, manifest, changed[0], schema)
            + (f" ({len(changed) - 1} more parts, too)" if len(changed) > 1 else "")
            + ". Bring back the manifest that the run began with, or give another output folder; "
            "`dstc verify OUTPUT --repair` makes such rows anew from the manifest as it is"
        )


def _changed_shards(
    manifest: Manifest,
    file: ManifestFile,
    numbers: Numbers,
    ledger: Ledger,
    schema: pa.Schema,
) -> Iterator[int]:
    """Of the shards that have these numbers in the file, those with other rows now."""
    per_shard = manifest.rows_per_shard
    step = max(1, ROWS_AT_ONCE // per_shard)
    piece_of = numbers // step
    pieces = [
        Shard(
            piece,
            file,
            piece * step * per_shard,
            min((piece + 1) * step * per_shard, file.rows),
        )
        for piece in np.unique(piece_of).tolist()
    ]
    for piece, rows in read_shards(pieces, schema):
        digests = digest_rows(rows)
        of_shards = digest_shards(digests, per_shard)
        low, high = np.searchsorted(piece_of, [piece.number, piece.number + 1])
        for number in numbers[low:high].tolist():
            shard = number + file.first_shard
            at = number - piece.number * step
            held = ledger.rows_of(shard)
            own = digests[at * per_shard : (at + 1) * per_shard]
            # A limit may have cut the part.
            here = of_shards[at] if held >= len(own) else digest_shards(own[:held], held)[0]
            if here != ledger.digest_of(shard):
                yield shard


def _changed_in_order(manifest: OrderedManifest, kept: Numbers, ledger: Ledger) -> list[int]:
    """Of these shards, those with other rows now, where the run has an order of its own."""
    if not len(kept):
        return []
    of_run = manifest_digests(manifest)[manifest.order.rows]
    # A limit may have cut a part.
    held = np.array([ledger.rows_of(shard) for shard in kept.tolist()], np.int64)
    found = digest_parts(of_run[spans(manifest.order.first_rows[kept], held)], held)
    pairs = zip(kept.tolist(), found, strict=True)
    return [shard for shard, digest in pairs if digest != ledger.digest_of(shard)]


def manifest_digests(manifest: Manifest) -> Digests:
    """(rows of all files,) digests of all rows, in the order of files; 8 bytes each are held.

    Raises:
        ManifestError: a file cannot be read.
    """
    digests = np.empty(manifest.all_rows, np.uint64)
    schema = pa.schema([field for field in manifest.schema if field.name in KNOWN_COLUMNS])

    def fill(file: ManifestFile) -> None:
        for first, rows in read_file(file, schema):
            digests[first : first + len(rows)] = digest_rows(rows)

    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(fill, manifest.files):
            pass
    return digests


def _describe(run: RunFolder, manifest: Manifest, shard: int, schema: pa.Schema) -> str:
    """Names the first row of a part that is not of the manifest row in its place."""
    text = f"{run.part_name(shard)} was made from other manifest rows"
    part = read_part(run, shard)
    whole = dataclasses.replace(manifest, rows=manifest.all_rows)  # a limit may have cut it
    ((_, rows),) = read_shards([whole.shard(shard)], schema)
    changed = changed_rows(part, rows, digest_rows(rows), facts_in(part.schema, len(part)).digests)
    if not changed:
        return text
    change = describe_change(part.slice(changed[0], 1), rows.slice(changed[0], 1))
    return f"{text}: {change}"
