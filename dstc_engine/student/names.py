"""Words of students that need no torch: their kind, fallbacks, and what a student is called by."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

KIND = "student"
# What becomes of rows that a student cannot do: `fallback.FallbackEngine`.
Fallback = Literal["guided", "flag", "none"]


def description_of(student: str | Path) -> str:
    """The description's path or URL of a student.

    Example:
        >>> description_of("s3://bucket/student/")
        's3://bucket/student/student.json'
    """
    text = str(student)
    return text if text.endswith(".json") else f"{text.rstrip('/')}/{KIND}.json"
