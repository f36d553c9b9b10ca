"""Pilots for tests: run folders of plain drawings whose results are darker, written without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dstc_engine.image import encode_png
from dstc_engine.request import ImageArray
from tests.pilot_run import write_run

SIZE, ROWS = 64, 24
FAST = {
    "least_rows": "8",
    "val_share": "0.3",
    "channels": "8",
    "embedding": "8",
    "warmup": "1",
    "feature_rows": "2",
    "bf16": "false",
}
# Fields of tiny64 by which guidance takes three steps, and flags nothing.
BRIEF = {
    "skip": "22",
    "resample": "1",
    **dict.fromkeys(("gate_structure", "gate_range", "gate_style_cls", "gate_clip"), "100"),
}


def drawing(seed: int) -> ImageArray:
    rng = np.random.default_rng(seed)
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    top, left = rng.integers(4, 24, 2)
    image[top : top + 30, left : left + 30] = rng.integers(0, 200, 3)
    return image


def dark(row: dict[str, Any]) -> ImageArray:
    return (drawing(int(row["id"])) // 2).astype(np.uint8)


def write_manifest(folder: Path, looks: int = 1, rows: int = ROWS, **columns: Any) -> Path:
    for name, count in (("content", rows), ("style", looks)):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            image = drawing(n if name == "content" else 1000 + n)
            (folder / name / f"{n}.png").write_bytes(encode_png(image))
    table = pa.table(
        {
            "id": [str(n) for n in range(rows)],
            "content": [f"content/{n}.png" for n in range(rows)],
            "style": [f"style/{n % looks}.png" for n in range(rows)],
            **columns,
        }
    )
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def write_pilot(
    folder: Path,
    end: Callable[[dict[str, Any]], Any] = dark,
    state: str = "finished",
    **manifest: Any,
) -> Path:
    path = write_manifest(folder / "data", **manifest)
    return write_run(folder / "run", path, end, state, engine="fake", rows_per_shard=10)


def open_gates(student: Path) -> None:
    """Gates that nothing fails: of a student of one step no image would pass."""
    described = student / "student.json"
    fields = json.loads(described.read_text())
    for look in fields["student"]["looks"]:
        look["limits"] = dict.fromkeys(look["limits"], 100.0)
    described.write_text(json.dumps(fields))
