"""The end of a run: every row counted, summary.json written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dstc.errors import JobError
from dstc.store import storage
from dstc.store.ledger import flagged_reasons, made_by
from dstc.store.results import DONE, FAILED, REJECTED, STATUSES

if TYPE_CHECKING:
    from dstc.planning.plan import Plan
    from dstc.store.run_folder import RunFolder


@dataclass(frozen=True)
class Summary:
    """What summary.json holds.

    Attributes:
        run_id: of the run. rows: result rows in all.
        done, rejected, failed: rows by status.
        rejected_reasons, failed_reasons: rows by reason.
        flagged: of the rows that are done, those a gate flags. flagged_reasons: those by gates.
        seconds: of this invocation. rows_run: rows of the shards it ran. rate: those per second.
        made_by: rows that are done by what made them; empty where no student had a part.
    """

    run_id: str
    rows: int
    done: int
    rejected: int
    failed: int
    rejected_reasons: dict[str, int]
    failed_reasons: dict[str, int]
    flagged: int
    flagged_reasons: dict[str, int]
    seconds: float
    rows_run: int
    rate: float
    made_by: dict[str, int] = field(default_factory=dict)

    @property
    def rejected_share(self) -> float:
        """Of all rows, 0 .. 1."""
        return self.rejected / self.rows if self.rows else 0.0


def summarize_run(plan: Plan, seconds: float) -> Summary:
    """Counts the result rows of all parts and writes summary.json.

    Raises:
        JobError: result rows are missing; the same command runs their shards.
        OSError: storage does not answer.
    """
    manifest, run = plan.manifest, plan.job.run
    ledger = plan.ledger
    damaged = ledger.complete(run.part_sizes())
    shards = range(manifest.shards)
    held = (ledger.rows_of(shard) if shard in ledger else -1 for shard in shards)
    is_missing = np.fromiter(held, np.int64, len(shards)) < manifest.rows_of_each(shards)
    if missing := np.flatnonzero(is_missing).tolist():
        first = missing[0]
        raise JobError(
            f"{len(missing)} of {manifest.shards} shards have no complete results (the first is "
            f"{first}: {damaged.get(first, run.part_name(first))}); the same command runs them"
        )
    ledger.save()
    totals = ledger.totals()
    counts = {status: sum(totals.get(status, {}).values()) for status in STATUSES}
    reasons = {
        status: {
            reason or "unknown": n for reason, n in totals.get(status, Counter()).most_common()
        }
        for status in (REJECTED, FAILED)
    }
    flagged = flagged_reasons(totals)
    rows_run = manifest.rows - plan.rows_done
    summary = Summary(
        run_id=plan.job.run_id,
        rows=sum(counts.values()),
        done=counts[DONE],
        rejected=counts[REJECTED],
        failed=counts[FAILED],
        rejected_reasons=reasons[REJECTED],
        failed_reasons=reasons[FAILED],
        flagged=sum(flagged.values()),
        flagged_reasons=flagged,
        seconds=round(seconds, 3),
        rows_run=rows_run,
        rate=round(rows_run / seconds, 4) if seconds else 0.0,
        made_by=made_by(totals),
    )
    if plan.pending or not storage.exists(run.summary):  # else it holds the speed of the real run
        text = json.dumps(asdict(summary), indent=2)
        storage.write_bytes(run.summary, text.encode() + b"\n")
    if not plan.pending:
        _note_finished(run)
    return summary


def _note_finished(run: RunFolder) -> None:
    """Makes progress.json say so where its driver was killed between the last part and its end."""
    try:
        record = json.loads(storage.read_bytes(run.progress))
    except (FileNotFoundError, ValueError):
        return
    if isinstance(record, dict) and record.get("state") != "finished":
        text = json.dumps({**record, "state": "finished"}, indent=2)
        storage.write_bytes(run.progress, text.encode() + b"\n")
