"""Output of an encoder's training: its weights, how they were made, and the curve."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dstc_engine.durable import move_into_place


def save_weights(
    folder: Path, name: str, weights: Mapping[str, Tensor], record: dict[str, Any]
) -> Path:
    """Writes `<name>.safetensors` (float32) and `<name>.json` (`record`); returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / f"{name}.safetensors", folder / f"{name}.safetensors.partial"
    save_file({key: t.detach().float().contiguous().cpu() for key, t in weights.items()}, partial)
    move_into_place(partial, path)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    return path


def log_metrics(
    path: Path, columns: Sequence[str], step: int, metrics: Mapping[str, float]
) -> None:
    """Adds a row to a CSV of `step` and `columns`; metrics not measured at this step stay empty.

    A log that an older version began keeps its columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ["step", *columns]
    new = not path.exists()
    if not new:
        with path.open(newline="") as file:
            header = next(csv.reader(file))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow({"step": step, **{key: f"{value:.5f}" for key, value in metrics.items()}})
