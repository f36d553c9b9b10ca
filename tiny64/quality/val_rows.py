"""A manifest of val subjects, for what the demo's rows are too few: variants, quality.

    dstc emoji build data
    python -m tiny64.quality.val_rows data/emoji-64.parquet rows --rows 48

Rows guided by text, by an image and by both in turn. Content and target style, and the subjects,
are drawn at random from a fixed seed; the style image is that of another subject. No network was
trained on val subjects.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiny64.captions import STYLE_PHRASES, caption

KINDS = ("text", "image", "both")


def val_rows(images: list[dict[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Manifest rows; the images they name are `<style>/<subject>.png`.

    Args:
        images: rows of the emoji data set; those of other splits are left out.
    """
    rng = np.random.default_rng(seed)
    by_style: dict[str, dict[str, dict[str, Any]]] = {}
    for image in images:
        if image["split"] == "val" and image["style"] in STYLE_PHRASES:
            by_style.setdefault(image["style"], {})[image["subject"]] = image
    styles = sorted(by_style)
    subjects = sorted(set.intersection(*(set(by_style[style]) for style in styles)))
    rows = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        own, target = rng.choice(styles, 2, replace=False)
        content, other = rng.choice(subjects, 2, replace=False)
        name = by_style[own][content]["name"]
        rows.append(
            {
                "id": f"{number:03d}-{kind}-{target}",
                "content": f"{own}/{content}.png",
                "style": f"{target}/{other}.png" if kind != "text" else None,
                "prompt": caption(name, target) if kind != "image" else None,
                "source_prompt": caption(name, own) if kind != "image" else None,
                "seed": number,
            }
        )
    return rows


def write_rows(data: Path, folder: Path, count: int) -> Path:
    """Writes `rows.parquet` and the images it names into a folder; returns the manifest."""
    images = pq.read_table(data).to_pylist()
    rows = val_rows(images, count)
    named = {row[column] for row in rows for column in ("content", "style") if row[column]}
    for image in images:
        name = f"{image['style']}/{image['subject']}.png"
        if name in named:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(image["png"])
    manifest = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("folder", type=Path, help="where manifest and images go")
    parser.add_argument("--rows", type=int, default=48)
    arguments = parser.parse_args()
    print(write_rows(arguments.data, arguments.folder, arguments.rows))


if __name__ == "__main__":
    main()
