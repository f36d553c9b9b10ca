"""Makes the demo's manifests and images: `python -m tiny64.release.make_demo --cache FOLDER`.

`demo.parquet` shows guidance, a look of its own in each row; `glossy.parquet` two looks that
repeat, which the student in `glossy` has learned. Only subjects of the val split, so that
nothing in the demo was seen in training, and only artwork without a share-alike licence.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tiny64.captions import STYLE_PHRASES, caption
from tiny64.data import EmojiSource, Subject, draw, open_source, png_bytes

SIZE = 256  # pixels; the tiny networks look at 64, and an image on a page wants more
# Last word of an id, so that a result folder can be read without the manifest.
LOOKS = {
    "twemoji": "cartoon",
    "noto": "soft",
    "openmoji": "outlined",
    "openmoji_line": "line",
    "fluent_flat": "flat",
    "fluent_3d": "3d",
}
SHIPPED_STYLES = ("twemoji", "noto", "fluent_flat", "fluent_3d")


@dataclass(frozen=True)
class Row:
    """One row of the demo: a subject in one style, to be drawn in another."""

    name: str
    content_style: str
    target_style: str
    style_subject: str | None = None
    """Name of another subject whose image in `target_style` is the style image."""


TEXT = (
    Row("tiger face", "twemoji", "fluent_3d"),
    Row("frog", "fluent_3d", "openmoji_line"),
    Row("turtle", "fluent_3d", "fluent_flat"),
    Row("unicorn", "noto", "twemoji"),
    Row("ice cream", "fluent_flat", "fluent_3d"),
    Row("castle", "noto", "openmoji"),
    Row("teddy bear", "fluent_flat", "noto"),
    Row("smirking face", "twemoji", "openmoji_line"),
)
IMAGE = (
    Row("parrot", "twemoji", "fluent_3d", "tomato"),
    Row("tomato", "fluent_3d", "twemoji", "hamster"),
    Row("lady beetle", "fluent_flat", "fluent_3d", "ice cream"),
    Row("violin", "noto", "fluent_flat", "briefcase"),
    Row("hamster", "fluent_3d", "noto", "camel"),
    Row("volcano", "twemoji", "noto", "melon"),
    Row("hot beverage", "noto", "fluent_3d", "teddy bear"),
    Row("grinning face with big eyes", "fluent_3d", "fluent_flat", "honeybee"),
)
BOTH = (
    Row("honeybee", "twemoji", "fluent_3d", "grinning face with smiling eyes"),
    Row("camel", "fluent_flat", "noto", "teddy bear"),
    Row("pancakes", "fluent_3d", "twemoji", "castle"),
    Row("peacock", "fluent_flat", "fluent_3d", "parrot"),
    Row("running shoe", "noto", "fluent_flat", "volcano"),
    Row("accordion", "twemoji", "fluent_3d", "maple leaf"),
    Row("elf", "fluent_3d", "noto", "superhero"),
    Row("ferris wheel", "noto", "twemoji", "peacock"),
)

# Flat drawings that glossy.parquet makes glossy, after this subject's image and after words. The
# image has the 64 pixels that the student's teacher saw: a look is known by its pixels.
GLOSSY = ("briefcase", "camel", "honeybee", "ice cream", "lady beetle", "peacock", "volcano")
GLOSSY_STYLE, GLOSSY_URI, GLOSSY_SIZE = "teddy bear", "glossy/style.png", 64

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("content", pa.string()),
        ("style", pa.string()),
        ("prompt", pa.string()),
        ("source_prompt", pa.string()),
        ("mask", pa.string()),
        ("seed", pa.int64()),
        ("name", pa.string()),
        ("content_style", pa.string()),
        ("target_style", pa.string()),
        ("label", pa.string()),
        ("box", pa.list_(pa.int32())),
    ]
)


class ImageSet:
    """Draws val subjects into `folder/demo`, each once."""

    def __init__(self, source: EmojiSource, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self._subjects = {subject.name: subject for subject in source.subjects.values()}
        self._boxes: dict[str, list[int]] = {}

    def subject(self, name: str) -> Subject:
        """The val subject of this name."""
        subject = self._subjects[name]
        if subject.split != "val":
            raise ValueError(f"{name!r} is a {subject.split} subject; the demo shows val only")
        return subject

    def add(self, name: str, style: str) -> tuple[str, list[int]]:
        """Draws one image; returns its URI, relative to the manifest, and the drawing's box."""
        if style not in SHIPPED_STYLES:
            raise ValueError(f"artwork of {style} is not shipped; use one of {SHIPPED_STYLES}")
        uri = f"demo/{style}/{_slug(name)}.png"
        if uri not in self._boxes:
            image, box = draw(self._source.drawings[style][self.subject(name).code], SIZE)
            target = self._folder / uri
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(png_bytes(image))
            self._boxes[uri] = list(box)
        return uri, self._boxes[uri]

    def add_style(self, name: str, style: str, uri: str, size: int) -> None:
        """Draws one style image, of `size` pixels."""
        image, _ = draw(self._source.drawings[style][self.subject(name).code], size)
        (self._folder / uri).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / uri).write_bytes(png_bytes(image))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def make_row(kind: str, row: Row, images: ImageSet) -> dict[str, Any]:
    """One manifest row; `kind` is "text", "image", "both" or another name, and opens the id."""
    content, box = images.add(row.name, row.content_style)
    style = None
    if row.style_subject is not None:
        if row.style_subject == row.name or row.target_style == row.content_style:
            raise ValueError(f"{row} shows its own subject or its own style")
        style, _ = images.add(row.style_subject, row.target_style)
    guided_by_text = kind != "image"
    return {
        "id": f"{kind}/{_slug(row.name)}-{LOOKS[row.target_style]}",
        "content": content,
        "style": style,
        "prompt": caption(row.name, row.target_style) if guided_by_text else None,
        "source_prompt": caption(row.name, row.content_style) if guided_by_text else None,
        "mask": None,
        "seed": None,
        "name": row.name,
        "content_style": row.content_style,
        "target_style": row.target_style,
        "label": images.subject(row.name).group,
        "box": box,
    }


def make_glossy_rows(images: ImageSet) -> list[dict[str, Any]]:
    """The rows of glossy.parquet: each drawing after the image, then each after words."""
    images.add_style(GLOSSY_STYLE, "fluent_3d", GLOSSY_URI, GLOSSY_SIZE)
    words = {
        "prompt": STYLE_PHRASES["fluent_3d"],
        "source_prompt": STYLE_PHRASES["fluent_flat"],
    }
    rows = []
    for kind, asks in (("glossy-image", {"style": GLOSSY_URI}), ("glossy-text", words)):
        for name in GLOSSY:
            row = make_row(kind, Row(name, "fluent_flat", "fluent_3d"), images)
            rows.append({**row, "prompt": None, "source_prompt": None, **asks})
    return rows


def make_demo(folder: Path, cache: Path) -> list[Path]:
    """Writes `demo.parquet`, `glossy.parquet` and the images they name.

    Args:
        folder: where they and `demo/` go.
        cache: folder of the downloaded npm packages.

    Returns:
        Paths of the manifests.
    """
    images = ImageSet(open_source(cache, styles=SHIPPED_STYLES), folder)
    kinds: Sequence[tuple[str, Sequence[Row]]] = (("text", TEXT), ("image", IMAGE), ("both", BOTH))
    manifests = {
        "demo": [make_row(kind, row, images) for kind, part in kinds for row in part],
        "glossy": make_glossy_rows(images),
    }
    for name, rows in manifests.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{name}.parquet")
    return [folder / f"{name}.parquet" for name in manifests]


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the demo's manifests and images.")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the npm packages")
    parser.add_argument("--folder", type=Path, default=Path("manifests"), help="where it goes")
    arguments = parser.parse_args()
    print(*make_demo(arguments.folder, arguments.cache))


if __name__ == "__main__":
    main()
