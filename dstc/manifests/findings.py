"""What a check finds, counted by kind, with the first few rows of each as examples."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 5


@dataclass
class Finding:
    """One kind of fault or oddity.

    Attributes:
        reason: short, as in results: "missing_picture". is_fault: the row would be rejected.
        rows: how many. examples: of them, the first few, each with what was found.
    """

    reason: str
    is_fault: bool
    rows: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """All findings of a check, in the order in which they were first made."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, reason: str, example: str, *, is_fault: bool = True) -> None:
        """Counts a row."""
        finding = self._found.setdefault(reason, Finding(reason, is_fault))
        finding.rows += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(example)

    def all(self) -> list[Finding]:
        """Faults first."""
        return sorted(self._found.values(), key=lambda finding: not finding.is_fault)

    @property
    def has_faults(self) -> bool:
        """Whether a row would be rejected."""
        return any(finding.is_fault for finding in self._found.values())
