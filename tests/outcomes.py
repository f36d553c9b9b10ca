"""Results and images of a run, in a form in which two runs can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.ray_session import result_rows


def without_times(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as text, in which NaN equals NaN, without what a clock decides."""
    return [json.dumps({k: v for k, v in row.items() if k != "seconds"}) for row in rows]


def outcome(output: Path) -> tuple[list[str], dict[str, bytes]]:
    """Result rows and images of a run folder on this machine, each image by its name."""
    images = (path for path in (output / "images").rglob("*.png") if path.is_file())
    return without_times(result_rows(output)), {
        path.relative_to(output).as_posix(): path.read_bytes() for path in images
    }
