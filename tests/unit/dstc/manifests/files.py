"""Small real files that tests of manifests begin with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from dstc.manifests.build import BuildOptions, Built, build_manifest
from dstc.manifests.find_sources import find_sources


def png(level: int = 0, size: tuple[int, int] = (8, 6)) -> bytes:
    """An image of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (level % 256, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder: Path, names: Sequence[str]) -> Path:
    """Writes an image, each of another color, under each of these names."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return folder


def build(output: Path | str, *sources: Path | str, **options: Any) -> Built:
    """Builds a manifest."""
    columns = options.get("columns")
    found = find_sources([str(source) for source in sources], columns)
    return build_manifest(found, BuildOptions(str(output), **options))


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    """Rows of a manifest."""
    return pq.read_table(manifest).to_pylist()  # type: ignore[no-any-return]
