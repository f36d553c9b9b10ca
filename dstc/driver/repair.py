"""Makes the next `dstc translate` run what `dstc verify` found missing or changed.

A part with a fault is taken away, after its good rows were put where the rows of an unfinished
shard are kept (`stats/<shard>.arrow`). So no good row is lost or made twice, and a repair that dies
half way leaves the part or these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dstc.driver.lease import Lease
from dstc.driver.signals import interrupter
from dstc.driver.terminal import print_waiting
from dstc.errors import OutputError
from dstc.store import retries, storage, urls
from dstc.store.ledger import Ledger
from dstc.store.part_facts import PartFacts, facts_in, with_facts
from dstc.store.results import FAILED, OUTCOME_SCHEMA, read_part, save_rows_so_far
from dstc.store.row_digests import digest_rows
from dstc.store.run_folder import RunFolder
from dstc.text import redact
from dstc.worker.attempts import note_unfinished


@dataclass(frozen=True)
class GoodRows:
    """What is as it was written in a part that has a fault.

    Attributes:
        places: by row of the part, its place in the shard.
        rows: of the manifest, all of the shard; None where the part cannot be read.
    """

    places: Mapping[int, int]
    rows: pa.Table | None


def repair(run: RunFolder, parts: Mapping[int, GoodRows], unnamed: Sequence[str] = ()) -> int:
    """Takes parts with faults away, and keeps their good rows for the next attempt.

    Args:
        parts: by shard, what is good of its part.
        unnamed: containers of images that no result names; they are removed.

    Returns:
        Rows that are kept; failed ones run again with those that are not.

    Raises:
        RunFolderError: another driver is at work on the folder.
        OutputError: a part cannot be taken away.
        OSError: storage does not answer.
    """
    lease = Lease(run.lease, redact(run.uri))
    lease.take(on_wait=print_waiting)
    with lease.kept(on_lost=interrupter()):
        kept = sum(_take_away(run, shard, good) for shard, good in sorted(parts.items()))
        for name in unnamed:
            storage.remove(urls.join(run.uri, name))
        ledger = Ledger.open(run)
        ledger.forget(parts)
        ledger.save(retries.STEADY)
    return kept


def _take_away(run: RunFolder, shard: int, good: GoodRows) -> int:
    rows_kept = 0
    if good.rows is not None and good.places:
        part = read_part(run, shard, OUTCOME_SCHEMA.names, patience=retries.STEADY)
        attempt = facts_in(part.schema, part.num_rows).attempt
        kept = part.take(pa.array(list(good.places), pa.int64())).replace_schema_metadata(None)
        places = list(good.places.values())
        digests = digest_rows(good.rows)[places]
        save_rows_so_far(
            run, shard, with_facts(kept, PartFacts(attempt, digests, good.rows.num_rows)), places
        )
        rows_kept = sum(status != FAILED for status in kept.column("status").to_pylist())
        note_unfinished(run, shard, attempt, rows_kept)
    storage.remove(run.part(shard))
    if storage.exists(run.part(shard)):
        raise OutputError(f"{run.part_name(shard)} cannot be removed; take it away by hand")
    return rows_kept
