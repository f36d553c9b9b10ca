"""The end of a run: every row counted, summary.json written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from jobs.errors import JobError
from jobs.store import storage
from jobs.store.results import DONE, FAILED, REJECTED
from jobs.store.run_folder import status_counts

if TYPE_CHECKING:
    from jobs.translate import Plan


@dataclass(frozen=True)
class Summary:
    """What summary.json holds.

    Attributes:
        run_id: of the run. rows: result rows in all.
        done, rejected, failed: rows by status.
        rejected_reasons, failed_reasons: rows by reason.
        seconds: of this invocation. rows_run: rows of the shards it ran. rate: those per second.
    """

    run_id: str
    rows: int
    done: int
    rejected: int
    failed: int
    rejected_reasons: dict[str, int]
    failed_reasons: dict[str, int]
    seconds: float
    rows_run: int
    rate: float


def summarise(plan: Plan, seconds: float) -> Summary:
    """Counts the result rows of all parts and writes summary.json.

    Raises:
        JobError: result rows are missing; the same command runs their shards.
    """
    manifest, run = plan.manifest, plan.job.run
    counts = Counter[str]()
    reasons: dict[str, Counter[str]] = {REJECTED: Counter(), FAILED: Counter()}
    missing = set(range(manifest.shards))
    for shard, by_status in status_counts(run, run.parts()):
        rows = 0
        for status, by_reason in by_status.items():
            rows += sum(by_reason.values())
            counts[status] += sum(by_reason.values())
            for reason, number in by_reason.items():
                if status != DONE:
                    reasons[status][reason or "unknown"] += number
        if shard in missing and rows >= manifest.shard(shard).rows:
            missing.discard(shard)
    if missing:
        raise JobError(
            f"{len(missing)} of {manifest.shards} shards have no complete results (the first is "
            f"{min(missing)}); the same command runs them"
        )
    rows_run = manifest.rows - plan.rows_done
    summary = Summary(
        run_id=plan.job.run_id,
        rows=counts.total(),
        done=counts[DONE],
        rejected=counts[REJECTED],
        failed=counts[FAILED],
        rejected_reasons=dict(reasons[REJECTED].most_common()),
        failed_reasons=dict(reasons[FAILED].most_common()),
        seconds=round(seconds, 3),
        rows_run=rows_run,
        rate=round(rows_run / seconds, 4) if seconds else 0.0,
    )
    if plan.pending or not storage.exists(run.summary):  # else it holds the speed of the real run
        text = json.dumps(asdict(summary), indent=2)
        storage.write_bytes(run.summary, text.encode() + b"\n")
    return summary
