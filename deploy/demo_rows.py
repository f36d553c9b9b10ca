"""As many rows as one likes from the images of the demo: contents x looks x kinds of guidance."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tiny64.captions import STYLE_PHRASES, caption

IMAGES = Path(__file__).resolve().parent.parent / "manifests" / "demo"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("content", pa.string()),
        ("style", pa.string()),
        ("prompt", pa.string()),
        ("source_prompt", pa.string()),
        ("target_style", pa.string()),
    ]
)


def demo_rows(count: int) -> pa.Table:
    """The first rows of a fixed endless list: unique ids, URIs relative to the manifest.

    Text, a style image, and both take turns; each content is asked for every look but its own.
    """
    return pa.Table.from_pylist(list(itertools.islice(_rows(), count)), schema=SCHEMA)


def _rows() -> Iterator[dict[str, Any]]:
    choice = random.Random(0)
    images = [f"demo/{path.parent.name}/{path.name}" for path in sorted(IMAGES.glob("*/*.png"))]
    # Its own order, so that even a few rows show different subjects and looks.
    contents = choice.sample(images, len(images))
    for number in itertools.count():
        content = contents[number % len(contents)]
        style, name = _style(content), Path(content).stem
        kind = ("text", "image", "both")[number % 3]
        if kind == "text":
            target, style_image = choice.choice([s for s in STYLE_PHRASES if s != style]), None
        else:
            style_image = choice.choice([p for p in images if _style(p) != style])
            target = _style(style_image)
        words = name.replace("-", " ")
        yield {
            "id": f"{kind}/{number:04d}-{name}-{target}",
            "content": content,
            "style": style_image,
            "prompt": None if kind == "image" else caption(words, target),
            "source_prompt": None if kind == "image" else caption(words, style),
            "target_style": target,
        }


def _style(image: str) -> str:
    return image.split("/")[1]


def put_demo(filesystem: Any, folder: str, rows: int) -> str:
    """Writes images and manifest into a folder of an fsspec file system.

    Returns:
        The manifest's path in it.
    """
    for path in sorted(IMAGES.glob("*/*.png")):
        filesystem.pipe_file(f"{folder}/demo/{path.parent.name}/{path.name}", path.read_bytes())
    buffer = io.BytesIO()
    pq.write_table(demo_rows(rows), buffer)
    filesystem.pipe_file(f"{folder}/manifest.parquet", buffer.getvalue())
    return f"{folder}/manifest.parquet"
