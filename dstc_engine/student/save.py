"""Ends a student's training: gates, metrics and sums go into the description beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dstc_engine.durable import move_into_place
from dstc_engine.student.description import StudentRecord
from dstc_engine.student.names import KIND
from dstc_engine.weights.registry import file_sha256


def finish_description(
    folder: Path, record: StudentRecord, metrics: Mapping[str, Any] | None = None
) -> Path:
    """Rewrites `student.json`, so that `load.load_student` takes what lies beside it.

    Args:
        folder: with `student.safetensors` and the `student.json` that `training.loop.fit` wrote.
        record: with the limits of each look. metrics: on val, by name; those written by default.

    Returns:
        The description's path.
    """
    path, weights = folder / f"{KIND}.json", folder / f"{KIND}.safetensors"
    description = json.loads(path.read_text())
    description |= {
        "file": weights.name,
        "sha256": file_sha256(weights),
        "size": weights.stat().st_size,
        KIND: record.to_json(),
    }
    if metrics is not None:
        description["metrics"] = dict(metrics)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(description, indent=2) + "\n")
    move_into_place(partial, path)
    return path
