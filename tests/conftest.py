"""What tests of all kinds share: images and manifests made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

IMAGES = 6

WriteManifest = Callable[..., Path]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `p0.png` .. `p5.png`, all different, not square, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG and then nothing of it")
    return folder


@pytest.fixture
def write_manifest(tmp_path: Path) -> WriteManifest:
    """Writes columns as a Parquet file: `write_manifest({"id": [...]}, name=..., schema=...)`."""

    def write(columns: dict[str, Any], name: str = "manifest.parquet", **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=options.pop("schema", None)), path, **options)
        return path

    return write


@pytest.fixture(scope="session")
def good_rows(images: Path) -> Callable[[int], dict[str, list[Any]]]:
    """Columns of a manifest whose rows are all fine."""

    def columns(rows: int) -> dict[str, list[Any]]:
        return {
            "id": [f"row/{number:03d}" for number in range(rows)],
            "content": [str(images / f"p{n % IMAGES}.png") for n in range(rows)],
            "prompt": [f"text {number}" for number in range(rows)],
        }

    return columns
