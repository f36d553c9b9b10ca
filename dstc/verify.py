"""`dstc verify`: whether a run folder still holds what was written, from its files alone.

Rows, ids, digests of manifest rows, and sums of images. What is found is named; `--repair` makes
the next `dstc translate` run what is missing, and keeps every row that is as it was written.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dstc.driver.repair import GoodRows, repair
from dstc.driver.terminal import console, facts_table
from dstc.errors import JobError, ManifestError, RunFolderError, StorageError
from dstc.store import retries, storage, urls
from dstc.store.check_images import check_images, count_images
from dstc.store.check_part import check_part
from dstc.store.duplicates import hash_ids
from dstc.store.faults import (
    CHANGED_MANIFEST,
    DAMAGED_PART,
    DOUBLED_ID,
    FOREIGN_CONTAINER,
    FOREIGN_PART,
    MISSING_PART,
    Fault,
)
from dstc.store.json_record import Record, read_record
from dstc.store.ledger import Ledger
from dstc.store.manifest import Manifest, Shard, open_manifest
from dstc.store.results import REJECTED, parse_part, read_part
from dstc.store.row_digests import KNOWN_COLUMNS
from dstc.store.row_order import RowOrder, ordered
from dstc.store.run_folder import ENDINGS, RunFolder, container_shard, is_container
from dstc.store.stored_names import files_named
from dstc.text import describe, redact, shown
from dstc.worker.read_shards import read_shards

WHOLE, FAULTY = 0, 1

# Parts, and the images of each, that are read at once.
_READERS = 16
_SHOWN_FAULTS = 50


@dataclass(frozen=True)
class Verified:
    """What `dstc verify` found.

    Attributes:
        output: the run folder. run_id: of the run.
        rows: result rows found. rows_expected: of the run so far; None without its manifest.
        parts: that can be read. images: that results name.
        faults: all of them; none where everything is as it was written.
        rows_to_run: rows that the next `dstc translate` runs again, after `--repair`; else None.
    """

    output: str
    run_id: str
    rows: int
    rows_expected: int | None
    parts: int
    images: int
    faults: tuple[Fault, ...]
    rows_to_run: int | None = None

    @property
    def is_whole(self) -> bool:
        """Nothing is wrong."""
        return not self.faults


@dataclass(frozen=True, eq=False)
class _Part:
    """What the check of a part found.

    Attributes:
        shard: its number. faults: of it and its images. rows, images: in it.
        containers: that its rows name.
        good: what a repair keeps of it; None where nothing is wrong, or nothing is there.
        counted: (N,) places of the rows that were not rejected. ids: (N,) hashes of their ids.
    """

    shard: int
    faults: Sequence[Fault] = ()
    rows: int = 0
    images: int = 0
    containers: Set[str] = frozenset()
    good: GoodRows | None = None
    counted: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    ids: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


def verify(output: str, *, repairs: bool = False, quick: bool = False) -> Verified:
    """Compares a run folder with its manifest, and its images with their sums.

    Args:
        output: the run folder, a local path or any fsspec URL.
        repairs: what is found missing or changed is to run again.
        quick: only look whether images are there; reading them all may take hours.

    Raises:
        RunFolderError: the folder holds no run; or, with `repairs`, another driver is at work.
        StorageError: storage does not answer.

    Example:
        >>> verify("run").is_whole  # doctest: +SKIP
        True
    """
    run = RunFolder(urls.folder(output))
    try:
        return _verify(run, repairs, quick)
    except JobError:
        raise
    except OSError as error:
        raise StorageError(f"storage does not answer: {describe(error)}") from error


def _verify(run: RunFolder, repairs: bool, quick: bool) -> Verified:
    job = read_record(run.job, "job.json")
    if job.problem:
        raise RunFolderError(
            f"output {redact(run.uri)}: job.json {job.problem}; expected the folder of a run"
        )
    kind = str(job.part("settings").get("format", "png"))
    run = RunFolder(run.uri, ENDINGS.get(kind, kind))
    manifest, faults = _open_manifest(job)
    if manifest is not None and (order := job.values.get("order")) is not None:
        manifest = ordered(manifest, RowOrder.read(run, str(order)))
    is_the_runs = not faults
    faults += [
        Fault(
            FOREIGN_PART, f"results/{name}", "not a part's name; readers take it for one: remove it"
        )
        for name in run.foreign_parts()
    ]
    there, known = set(run.part_sizes()), set(Ledger.open(run).known())
    rows_expected = None
    if manifest is None:
        with ThreadPoolExecutor(_READERS) as pool:
            check = partial(_check_part, run, rows=None, wanted=0, quick=quick)
            parts = list(pool.map(check, sorted(there)))
    else:
        faults += [
            Fault(FOREIGN_PART, run.part_name(shard), "the manifest has no such shard; remove it")
            for shard in sorted(there)
            if shard >= manifest.shards
        ]
        rows_expected = _rows_expected(run, job, manifest, [*there, *known])
        planned = dataclasses.replace(manifest, rows=rows_expected)
        parts = list(_check_with_manifest(run, planned, there, known, quick))
    faults += [fault for part in parts for fault in part.faults]
    faults += _doubled_ids(run, parts)
    unnamed = _unnamed_containers(run, job, parts)
    faults += [
        Fault(FOREIGN_CONTAINER, name, "no result names it; readers of all containers take it")
        for name in unnamed
    ]
    verified = Verified(
        output=redact(run.uri),
        run_id=job.text("run_id"),
        rows=sum(part.rows for part in parts),
        rows_expected=rows_expected,
        parts=sum(part.rows > 0 for part in parts),
        images=sum(part.images for part in parts),
        faults=tuple(faults),
    )
    if not repairs or verified.is_whole:
        return verified
    if rows_expected is None or not is_the_runs:
        raise RunFolderError(
            f"output {redact(run.uri)}: the manifest is not the one that the run began with "
            f"({faults[0].place}: {faults[0].what}); bring it back first, since rows run again "
            "from it"
        )
    good = {part.shard: part.good for part in parts if part.good is not None}
    kept = repair(run, good, unnamed)
    untouched = sum(part.rows for part in parts if part.good is None)
    return dataclasses.replace(verified, rows_to_run=rows_expected - untouched - kept)


# -- the manifest ----------------------------------------------------------------------------------


def _open_manifest(job: Record) -> tuple[Manifest | None, list[Fault]]:
    """The manifest as it is now, where rows can be compared with it; and how it changed."""
    identity = job.part("identity")
    try:
        uri, per_shard = str(job.part("manifest")["uri"]), int(identity["rows_per_shard"])
        columns = {str(key): str(name) for key, name in identity.get("columns", {}).items()}
        began = {name: dict(file) for name, file in identity["manifest"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"job.json: not one of this program ({describe(error)})") from error
    try:
        manifest = open_manifest(uri, per_shard, columns=columns)
    except (ManifestError, StorageError) as error:
        return None, [Fault(CHANGED_MANIFEST, redact(uri), f"cannot be read: {error}")]
    now = {str(file["name"]): file for file in manifest.identity()}
    faults = []
    for name in dict.fromkeys([*began, *now]):
        for key in ("rows", "size", "footer_sha256"):
            there, here = began.get(name, {}).get(key), now.get(name, {}).get(key)
            if there != here:
                what = f"{key} was {shown(there)} when the run began, and is {shown(here)} now"
                faults.append(Fault(CHANGED_MANIFEST, name, what))
                break
    # Rows can be named where all shards are still of the same rows' numbers.
    rows_then, rows_now = ({n: f.get("rows") for n, f in files.items()} for files in (began, now))
    is_alike = rows_then == rows_now
    return (manifest if is_alike else None), faults


def _rows_expected(run: RunFolder, job: Record, manifest: Manifest, shards: list[int]) -> int:
    """Rows that the commands so far were to translate: all, unless each had a `--limit`."""
    limits = job.values.get("limits")
    if not limits:
        return manifest.rows
    records = (read_record(run.summary, "summary.json"), read_record(run.progress, "progress.json"))
    counts = [*limits, *(record.values.get("rows") for record in records)]
    inside = [shard for shard in shards if shard < manifest.shards]
    if inside:
        # A part beyond the limits is of a command without one.
        counts.append(manifest.shard(max(inside)).first_row + 1)
    return min(manifest.rows, max(count for count in counts if isinstance(count, int)))


# -- parts and images ------------------------------------------------------------------------------


def _check_with_manifest(
    run: RunFolder, manifest: Manifest, there: set[int], known: set[int], quick: bool
) -> Iterator[_Part]:
    schema = pa.schema([f for f in manifest.schema if f.name in KNOWN_COLUMNS])

    def check(shard: Shard, rows: pa.Table) -> _Part:
        wanted = manifest.shard(shard.number).rows
        if shard.number in there:
            return _check_part(run, shard.number, rows, wanted, quick)
        what = f"not found; expected the results of {wanted} rows" + (
            ", since the ledger knows it" if shard.number in known else ""
        )
        fault = Fault(MISSING_PART, run.part_name(shard.number), what)
        return _Part(shard.number, [fault])

    with ThreadPoolExecutor(_READERS) as pool:
        # At most the shards of one group wait in memory.
        for group in manifest.groups(range(manifest.shards)):
            try:
                yield from pool.map(lambda item: check(*item), read_shards(group.whole(), schema))
            except ManifestError as error:
                yield _Part(group[0].number, [Fault(CHANGED_MANIFEST, group.file.name, str(error))])


def _check_part(
    run: RunFolder, shard: int, rows: pa.Table | None, wanted: int, quick: bool
) -> _Part:
    name = run.part_name(shard)
    try:
        part = parse_part(storage.read_bytes(run.part(shard), retries.STEADY), name)
    except FileNotFoundError:
        return _Part(shard, [Fault(MISSING_PART, name, "not found any more")])
    except RunFolderError as error:
        what = str(error).removeprefix(f"{name}: ")
        return _Part(shard, [Fault(DAMAGED_PART, name, what)], good=GoodRows({}, None))
    try:
        return _check_rows(run, shard, part, rows, wanted, quick)
    except (pa.ArrowException, KeyError, TypeError) as error:
        fault = Fault(DAMAGED_PART, name, f"these are no result rows ({describe(error)})")
        return _Part(shard, [fault], part.num_rows, good=GoodRows({}, None))


def _check_rows(
    run: RunFolder, shard: int, part: pa.Table, rows: pa.Table | None, wanted: int, quick: bool
) -> _Part:
    faults, places = list[Fault](), {row: row for row in range(part.num_rows)}
    if rows is not None:
        checked = check_part(run.part_name(shard), part, rows, wanted)
        faults, places = list(checked.faults), dict(checked.places)
    for row, fault in check_images(run, part, quick):
        faults.append(fault)
        places.pop(row, None)
    statuses = part.column("status").to_pylist()
    counted = np.flatnonzero([status != REJECTED for status in statuses])
    ids = part.column("id").cast(pa.large_string()).combine_chunks()
    return _Part(
        shard,
        faults,
        rows=part.num_rows,
        images=count_images(part),
        containers=frozenset(filter(is_container, files_named(part))),
        good=GoodRows(places, rows) if faults else None,
        counted=counted,
        ids=hash_ids(ids)[counted],
    )


def _doubled_ids(run: RunFolder, parts: Sequence[_Part]) -> Iterator[Fault]:
    """Ids with a result in more than one part; 16 bytes for each row are held."""
    ordered = np.sort(np.concatenate([np.empty(0, np.uint64), *(part.ids for part in parts)]))
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[str, int] = {}
    for part in parts:
        suspects = part.counted[np.isin(part.ids, repeated)]
        if not len(suspects):
            continue
        ids = read_part(run, part.shard, ["id"], retries.STEADY).column("id")
        for row in suspects.tolist():
            row_id = str(ids[row].as_py())
            there = first.setdefault(row_id, part.shard)
            if there != part.shard:
                what = f"id {shown(row_id)!r} has a result in {run.part_name(there)}, too"
                yield Fault(DOUBLED_ID, run.part_name(part.shard), what)


def _unnamed_containers(run: RunFolder, job: Record, parts: Sequence[_Part]) -> list[str]:
    """Containers of shards with results none of which names them."""
    if job.part("settings").get("store", "files") == "files":
        return []
    named = {part.shard: part.containers for part in parts if part.rows}
    shards = ((name, container_shard(name)) for name in run.containers())
    return [name for name, shard in shards if shard in named and name not in named[shard]]


# -- what is told ----------------------------------------------------------------------------------


def to_json(verified: Verified) -> str:
    """What `--json` prints: the fields, and `is_whole`."""
    return json.dumps({**dataclasses.asdict(verified), "is_whole": verified.is_whole})


def print_verified(verified: Verified) -> None:
    """Prints what `dstc verify` shows."""
    table = facts_table("Run " + verified.run_id)
    of_all = "" if verified.rows_expected is None else f" of {verified.rows_expected:,}"
    table.add_row("rows", f"{verified.rows:,}{of_all}, in {verified.parts:,} parts")
    table.add_row("images", f"{verified.images:,}")
    kinds = Counter(fault.kind for fault in verified.faults)
    counts = ", ".join(f"{kind} {number:,}" for kind, number in kinds.most_common())
    table.add_row("faults", f"{len(verified.faults):,} ({counts})" if kinds else "none")
    if verified.rows_to_run is not None:
        again = f"{verified.rows_to_run:,} rows; the next `dstc translate` of this run makes them"
        table.add_row("to run again", again)
    elif kinds:
        table.add_row("to mend", "dstc verify --repair, then the same `dstc translate`")
    console().print(table)
    for fault in verified.faults[:_SHOWN_FAULTS]:
        print(f"{fault.kind}: {fault.place}: {redact(fault.what)}")
    if (more := len(verified.faults) - _SHOWN_FAULTS) > 0:
        print(f"and {more:,} more; --json names all")
