"""A made-up emoji Parquet: plain shapes in six styles, in the columns of `dstc emoji build`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

STYLES = ("twemoji", "noto", "openmoji", "openmoji_line", "fluent_flat", "fluent_3d")


def write_drawings(
    path: Path, subjects: int = 8, size: int = 32, styles: Sequence[str] = STYLES
) -> Path:
    """Writes `subjects` shapes in each style; the last quarter is val, the rest train."""
    rows = [
        {
            "id": f"{style}/{subject:04x}",
            "subject": f"{subject:04x}",
            "name": f"shape {subject}",
            "group": "Symbols",
            "keywords": ["shape", f"number_{subject}"],
            "style": style,
            "core": style in STYLES,
            "family": f"shape {subject}",
            "split": "val" if subject >= subjects * 3 // 4 else "train",
            "licence": "CC0-1.0",
            "png": _draw(subject, style, size),
        }
        for subject in range(subjects)
        for style in styles
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _shade(style: str) -> int:
    return STYLES.index(style) if style in STYLES else len(STYLES)


def _draw(subject: int, style: str, size: int) -> bytes:
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    box = (size // 8 + subject % 3, size // 4, size - size // 4, size - size // 8 - subject % 2)
    color = (40 + 25 * (subject % 8), 200 - 20 * (subject % 8), 30 * _shade(style))
    fill = None if style == "openmoji_line" else color
    line = "black" if style.startswith("openmoji") else color
    (pen.ellipse if subject % 2 else pen.rectangle)(box, fill=fill, outline=line, width=2)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
