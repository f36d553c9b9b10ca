"""How a student is named: by its folder, or by the path or URL of its description."""

from __future__ import annotations

from pathlib import Path

KIND = "student"


def description_of(student: str | Path) -> str:
    """The description's path or URL of a student.

    Example:
        >>> description_of("s3://bucket/student/")
        's3://bucket/student/student.json'
    """
    text = str(student)
    return text if text.endswith(".json") else f"{text.rstrip('/')}/{KIND}.json"
