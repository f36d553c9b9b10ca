"""One hostile case: what is tried, and how it must end; the table in docs/reliability.md is made of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A hostile input and its outcome.

    Attributes:
        kind: heading in the table, such as "URIs". name: of the test. what: one sentence.
        outcome: "done", "rejected: REASON", "failed: REASON", "refused: exit 2" or "kept".
    """

    kind: str
    name: str
    what: str
    outcome: str
