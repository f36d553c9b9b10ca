"""`--append`: the rows of a run found again in a manifest that got rows since, wherever they lie.

A row with a result is known by its digest, so it may lie behind new rows, or in another file. Parts
whose rows are where they were cost one reading of the manifest; the others are opened. What has no
result becomes new shards, so no part that is whole is written again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dstc.errors import ManifestError, RunFolderError
from dstc.planning.kept_parts import manifest_digests
from dstc.planning.lost_rows import LostRow, describe_lost_rows
from dstc.planning.run_identity import Job, differences, refusal
from dstc.store import retries, storage
from dstc.store.ledger import Ledger
from dstc.store.manifest import Manifest, Numbers
from dstc.store.part_facts import facts_in
from dstc.store.results import read_part
from dstc.store.row_digests import Digests, digest_parts
from dstc.store.row_order import RowOrder, ordered, spans
from dstc.store.run_folder import RunFolder
from dstc.text import redact

# Each of them is one request for one small file.
_READERS = 32
_NOWHERE = -1


def in_run_order(manifest: Manifest, planned: Job, appends: bool) -> tuple[Manifest, Job]:
    """The manifest in the order of the run that the folder holds, and the job that says so.

    Args:
        manifest: as it is now. planned: of it. appends: `--append` is given.

    Returns:
        Both as they are where the folder holds no run, or another one, which `existing_job`
        refuses. Where rows are appended, the job tells to which job.json (`appends_to`).

    Raises:
        ManifestError: a row with a result is another one now, or gone; or columns differ.
        RunFolderError: the manifest changed, and `appends` is not given; or parts do not tell
            which rows they were made from.
        OSError: storage does not answer.
    """
    record = _record(planned.run)
    different = list(differences(record["identity"], planned.identity)) if record else []
    if record is None or not all(text.startswith("manifest.") for text in different):
        return manifest, planned
    if not different and "appends" not in record:
        return manifest, planned
    before = None
    try:
        before = _order_of(planned.run, record)
    except RunFolderError:
        if not appends:
            raise
    if before is not None and not different:
        return _ordered(_with_columns_of(record, manifest), before, planned)
    try:
        manifest = _with_columns_of(record, manifest)
        found = _find_order(planned.run, manifest, record, before)
    except (ManifestError, RunFolderError) as error:
        if appends:
            raise
        raise refusal(planned.run, different, f". Nor would --append do: {error}") from error
    if not appends:
        raise refusal(
            planned.run,
            different,
            f". All {found.kept:,} rows with results are in the manifest as they were; with "
            f"--append the {manifest.all_rows - found.kept:,} others are translated, too",
        )
    manifest, job = _ordered(manifest, found.order, planned)
    return manifest, dataclasses.replace(job, appends_to=record, rows_kept=found.kept)


def _record(run: RunFolder) -> dict[str, Any] | None:
    """What job.json holds; None where `existing_job` says what is wrong with it."""
    try:
        record = json.loads(storage.read_bytes(run.job))
        assert isinstance(record["identity"]["manifest"], dict)
        assert isinstance(record["manifest"]["columns"], dict)
        return dict(record)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None


def _order_of(run: RunFolder, record: Mapping[str, Any]) -> RowOrder:
    """The order of the run as it was before this command."""
    if (name := record.get("order")) is not None:
        return RowOrder.read(run, str(name))
    identity = record["identity"]
    rows = [file["rows"] for file in identity["manifest"].values()]
    return RowOrder.plain(rows, identity["rows_per_shard"])


def _ordered(manifest: Manifest, order: RowOrder, planned: Job) -> tuple[Manifest, Job]:
    plain = RowOrder.plain([file.rows for file in manifest.files], manifest.rows_per_shard)
    if order.name == plain.name:  # all new rows lie behind the others
        return manifest, planned
    return ordered(manifest, order), dataclasses.replace(planned, order=order)


def _with_columns_of(record: Mapping[str, Any], manifest: Manifest) -> Manifest:
    """The manifest with its columns in the order that the run's results have.

    Raises:
        ManifestError: they are others.
    """
    there: Mapping[str, str] = record["manifest"]["columns"]
    here = {column.name: str(column.type) for column in manifest.schema}
    for name in dict.fromkeys([*there, *here]):
        if here.get(name) != there.get(name):
            raise ManifestError(
                f"manifest {redact(manifest.uri)}, column {name!r}: found "
                f"{here.get(name, 'none of this name')}; expected "
                f"{there.get(name, 'none of this name')}, since the results of the run have the "
                f"columns that it began with ({', '.join(there)}). Give the manifest just these, "
                "or give another output folder"
            )
    return dataclasses.replace(
        manifest, schema=pa.schema([manifest.schema.field(name) for name in there])
    )


# --- finding the rows -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """The order of a run with the rows that came since. kept: rows that have results."""

    order: RowOrder
    kept: int


def _find_order(
    run: RunFolder, manifest: Manifest, record: Mapping[str, Any], before: RowOrder | None
) -> _Found:
    """Finds the rows of all parts in the manifest, and makes shards of the others.

    Args:
        before: the order of the run as it was; None where it is not known.
    """
    ledger = Ledger.open(run)
    ledger.complete(run.part_sizes())  # what cannot be read counts as missing
    digests = manifest_digests(manifest)
    shards = np.array([shard for shard in ledger.known() if ledger.rows_of(shard)], np.int64)
    held = np.array([ledger.rows_of(shard) for shard in shards.tolist()], np.int64)
    rows = np.full(int(held.sum()), _NOWHERE)
    if before is not None and len(rows):
        guesses = _moved_with_files(record, manifest, before, shards, held)
        stay = _are_there(ledger, shards, held, guesses, digests)
        rows = np.where(np.repeat(stay, held), guesses, _NOWHERE)
    offsets = np.cumsum(held) - held
    is_opened = rows[offsets] == _NOWHERE
    wanted = _digests_in_parts(run, shards[is_opened], held[is_opened])
    places = spans(offsets[is_opened], held[is_opened])
    rows[places] = _rows_with(wanted, digests, taken=rows[rows != _NOWHERE])
    of_parts = np.repeat(shards, held)
    if (lost := places[rows[places] == _NOWHERE]).size:
        in_part = lost - np.repeat(offsets, held)[lost]
        is_there = np.isin(wanted[rows[places] == _NOWHERE], digests)
        each = zip(of_parts[lost].tolist(), in_part.tolist(), is_there.tolist(), strict=True)
        text = describe_lost_rows(run, manifest, [LostRow(*values) for values in each])
        raise ManifestError(f"manifest {redact(manifest.uri)}: {text}")
    return _Found(_with_new_shards(manifest, of_parts, rows), len(rows))


def _moved_with_files(
    record: Mapping[str, Any],
    manifest: Manifest,
    before: RowOrder,
    shards: Numbers,
    held: Numbers,
) -> Numbers:
    """(K,) where the rows of parts are if they are where they were in their files; -1: nowhere."""
    there = {name: int(file["rows"]) for name, file in record["identity"]["manifest"].items()}
    here = {file.name: file for file in manifest.files}
    ends = np.cumsum(list(there.values()))
    moved = [here[name].first_row if name in here else _NOWHERE for name in there]
    has = [here[name].rows if name in here else 0 for name in there]
    firsts, known = before.first_rows, len(before.bounds) - 1
    is_known = (shards < known) & (ends[-1] == before.counts.sum())
    bounded = np.where(is_known, shards, 0)
    is_known &= held <= firsts[bounded + 1] - firsts[bounded]
    at = spans(np.where(is_known, firsts[bounded], 0), np.where(is_known, held, 0))
    rows = before.rows[at]
    files = np.searchsorted(ends, rows, side="right")
    in_file = rows - (ends - list(there.values()))[files]
    guesses = np.full(int(held.sum()), _NOWHERE)
    guesses[np.repeat(is_known, held)] = np.where(
        in_file < np.array(has)[files], np.array(moved)[files] + in_file, _NOWHERE
    )
    return guesses


def _are_there(
    ledger: Ledger, shards: Numbers, held: Numbers, rows: Numbers, digests: Digests
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(P,) of parts, whether they were made from these rows of the manifest."""
    found = digest_parts(digests[rows], held)  # of row -1 any: it is taken out below
    is_same = [
        digest == ledger.digest_of(shard)
        for shard, digest in zip(shards.tolist(), found, strict=True)
    ]
    is_somewhere = np.logical_and.reduceat(rows != _NOWHERE, np.cumsum(held) - held)
    return np.array(is_same, bool) & is_somewhere


def _digests_in_parts(run: RunFolder, shards: Numbers, held: Numbers) -> Digests:
    """(K,) the digests of the rows of these parts, one part after the other.

    Raises:
        RunFolderError: one does not tell them.
    """

    def read(shard: int, rows: int) -> Digests:
        part = read_part(run, shard, ("id",), retries.STEADY)
        digests = facts_in(part.schema, part.num_rows).digests
        if digests is None or len(digests) != rows:
            raise RunFolderError(
                f"output {redact(run.uri)}, {run.part_name(shard)}: found no digests of its rows "
                "(an earlier version wrote it, or it lost rows); expected some, to find the rows "
                "in the manifest. Bring back the manifest as it was, or remove this part: what is "
                "missing runs again"
            )
        return digests

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(read, shards.tolist(), held.tolist()))
    return np.concatenate([np.empty(0, np.uint64), *found])


def _rows_with(wanted: Digests, digests: Digests, taken: Numbers) -> Numbers:
    """(K,) for each digest a row of the manifest that has it, each row once; -1 where none is left.

    Rows that are alike in all columns, id included, are given in their order.
    """
    is_free = np.ones(len(digests), bool)
    is_free[taken] = False
    free = np.flatnonzero(is_free)
    free = free[np.argsort(digests[free], kind="stable")]
    by_digest = np.argsort(wanted, kind="stable")
    asked = wanted[by_digest]
    of_same = np.arange(len(asked)) - np.searchsorted(asked, asked)
    at = np.searchsorted(digests[free], asked) + of_same
    rows = np.full(len(wanted), _NOWHERE)
    inside = at < len(free)
    rows[by_digest[inside]] = free[at[inside]]
    is_same = np.zeros(len(wanted), bool)
    is_same[by_digest[inside]] = digests[free[at[inside]]] == asked[inside]
    return np.where(is_same, rows, _NOWHERE)


def _with_new_shards(manifest: Manifest, shards: Numbers, rows: Numbers) -> RowOrder:
    """The order of rows with results, and of all others in new shards of one file each.

    Args:
        shards, rows: (K,) of rows with results, shard by shard.

    Raises:
        RunFolderError: shards without a part are left without rows.
    """
    is_new = np.ones(manifest.all_rows, bool)
    is_new[rows] = False
    new = np.flatnonzero(is_new)
    firsts = np.array([file.first_row for file in manifest.files])
    files = np.searchsorted(firsts, new, side="right")
    begins = (np.arange(len(new)) - np.searchsorted(files, files)) % manifest.rows_per_shard == 0
    wanted = int(begins.sum())
    known = np.unique(shards)
    top = int(known[-1]) + 1 if len(known) else 0
    free = np.setdiff1d(np.arange(top), known)
    if len(free) > wanted:
        raise RunFolderError(
            f"{len(free):,} parts of the run are missing, and rows that the manifest has now fill "
            f"{wanted:,} of them; expected at least the rows of before. Bring them back, or give "
            "another output folder"
        )
    numbers = np.append(free, np.arange(top, top + wanted - len(free)))
    all_shards = np.append(shards, numbers[np.cumsum(begins) - 1])
    in_order = np.argsort(all_shards, kind="stable")
    return RowOrder.of_rows(all_shards[in_order], np.append(rows, new)[in_order], firsts)
