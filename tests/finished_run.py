"""A finished run of drawn shapes, with labels, splits, names and carried boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.hostile.local_run import LocalRun

IDS = ["a/1", "a/2", "b.3", "b.4", "c", "gone", "d"]
LABELS = ["and/or", "cat", "cat", "and/or", "cat", "cat", None]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Translates seven rows with the fake engine: the fifth has its second sample, one is lost."""

    def make(samples: int = 1, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("export")
        for number in range(7):
            pixels = np.full((64, 96, 3), 40 * number, np.uint8)
            pixels[10:22, 30:46] = 255
            Image.fromarray(pixels).save(folder / f"p{number}.png")
            mask = np.zeros((64, 96), np.uint8)
            mask[10:22, 30:46] = 3
            Image.fromarray(mask).save(folder / f"m{number}.png")
        boxes = [[[30, 10, 16, 12], [0, 0, 8, 8]]] * 7
        rows = {
            "id": IDS,
            "content": [f"p{n}.png" if n != 5 else "none.png" for n in range(7)],
            "prompt": [f"text {n}" for n in range(7)],
            "label": LABELS,
            "split": ["train", "train", "val", "train", "val", "train", "val"],
            "name": ["my pic.jpg", "my pic.png", "../x/é.png", None, "MY PIC.jpg", "g", "d"],
            "boxes": boxes,
            "categories": [["sun", "moon"]] * 7,
            "points": [[[30, 10, 2, 0, 0, 1]]] * 7,
            "polygons": [[[[30, 10, 46, 10, 46, 22, 30, 22]], None]] * 7,
            "masks": [f"m{n}.png" for n in range(7)],
            "secret": ["no secret"] * 7,
            "image": list(range(7)),
        }
        pq.write_table(pa.table(rows), folder / "rows.parquet")
        run = LocalRun(folder / "rows.parquet", folder / "run")
        run.translate(samples_per_row=samples, **options)
        return folder / "run"

    return make


@pytest.fixture(scope="session")
def finished(make_run: Callable[..., Path]) -> Path:
    return make_run(boxes="boxes", keypoints="points", masks="masks")
