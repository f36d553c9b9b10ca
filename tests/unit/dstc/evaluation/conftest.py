"""Runs made by hand: result parts and images, without a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc_engine.presets import TINY64
from dstc_engine.request import ImageArray


def image(seed: int, height: int = 64, width: int = 64) -> ImageArray:
    """Grey noise on white."""
    rng = np.random.default_rng(seed)
    made = np.full((height, width, 3), 255, np.uint8)
    made[height // 4 : -height // 4, width // 4 : -width // 4] = rng.integers(
        0, 200, made[height // 4 : -height // 4, width // 4 : -width // 4].shape
    )
    return made


def save(path: Path, made: ImageArray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(made).save(path)
    return str(path)


MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run of one shard.

    Its rows are values of the manifest's columns and, as `result`, an image, or None for a row
    that failed.
    """

    def make(rows: list[dict[str, Any]], fit: str = "crop", **job: Any) -> RunFolder:
        run = RunFolder(str(tmp_path / "run"))
        record = {"preset": asdict(replace(TINY64, fit=fit)), "manifest": {"rows": len(rows)}}
        Path(run.uri).mkdir()
        Path(run.job).write_text(json.dumps(record | job))
        outcomes = []
        for row in rows:
            result = row.pop("result")
            if result is None:
                outcomes.append(Outcome("failed", "fetch_error", "no answer", seed=1))
                continue
            name = run.image_name(row["id"])
            save(Path(run.uri) / name, result)
            outcomes.append(Outcome("done", image=name, image_sha256="0" * 64, seed=1))
        names = dict.fromkeys(["id", "content"] + [name for row in rows for name in row])
        columns = {name: [row.get(name) for row in rows] for name in names}
        write_part(run, 0, result_table(pa.table(columns), outcomes))
        return run

    return make
