"""Outcomes of rows that ended by an error or a failed sample, or keep the one of before."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from dstc.store.results import (
    DONE,
    FAILED,
    REJECTED,
    Outcome,
    outcome_table,
)
from dstc.text import describe
from dstc.worker.row import (
    Failed,
    Rejected,
    Row,
)
from dstc.worker.timed_threads import TIMED_OUT, Overdue
from dstc_engine.request import Translation

log = logging.getLogger(__name__)


def failed_sample(row: Row, number: int, translation: Translation) -> Outcome:
    """A row one of whose samples failed; its numbers and losses are that sample's."""
    error = translation.error
    return Outcome(
        FAILED,
        translation.reason,
        f"sample {number} (seed {translation.seed}): {error}" if number else error,
        seed=row.seed,
        steps=translation.steps,
        restarts=translation.restarts,
        seconds=translation.seconds,
        slots=translation.slots,
        losses=translation.losses,
    )


def settled(outcome: Outcome, before: Outcome | None) -> Outcome:
    """The final outcome of a row; a flagged one whose other seed made no image keeps its own."""
    if before is None or outcome.status == DONE:
        return outcome
    retry = before.retries + 1
    log.warning("%s: retry %d: %s: %s", before.image, retry, outcome.reason, outcome.error)
    return replace(before, retries=retry)


def checked(outcome: Outcome) -> Outcome:
    """The outcome, if a result row can hold it; an engine of one's own may have made it.

    Raises:
        AttributeError, TypeError, ValueError, ArrowException: it cannot.
    """
    outcome_table([outcome])
    return outcome


def outcome_of(error: BaseException, row: Row | None, values: dict[str, Any]) -> Outcome:
    seed = row.seed if row is not None else values.get("seed")
    if isinstance(error, Rejected):
        return Outcome(REJECTED, error.reason, str(error), seed=seed)
    if isinstance(error, Failed):
        return Outcome(FAILED, error.reason, str(error), seed=seed)
    if isinstance(error, Overdue):
        return Outcome(FAILED, TIMED_OUT, f"fetch and decode of its images: {error}", seed=seed)
    # A mistake of ours; the shard's other rows are not to suffer for it.
    log.error("row %r", values.get("id"), exc_info=error)
    return Outcome(FAILED, "internal_error", describe(error), seed=seed)
