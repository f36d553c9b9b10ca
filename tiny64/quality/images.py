"""Makes the benchmark's images and keeps them in a folder, so that a run cut short goes on.

<work>/<way>/<row id>.png
<work>/<way>/<row id>.json      its losses at the last guided step
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dstc_engine.engine import Engine, translate
from dstc_engine.image import decode, encode_png
from dstc_engine.models import Models
from dstc_engine.presets import Preset, with_fields
from dstc_engine.request import ImageArray
from tiny64.quality.baselines import BASELINES
from tiny64.quality.rows import BenchmarkRow


def image_path(work: Path, way: str, row: BenchmarkRow) -> Path:
    """Where the image of a row lies that a way has made."""
    return work / re.sub(r"\W+", "-", way) / f"{row.request.id}.png"


def translate_missing(
    models: Models,
    preset: Preset,
    ways: Mapping[str, Mapping[str, str]],
    rows: Sequence[BenchmarkRow],
    work: Path,
    slots: int,
    until: float = float("inf"),
) -> None:
    """Makes the images that are not there yet.

    Args:
        ways: preset fields to change, by the name of the way.
        until: of `time.monotonic`; rows in slots are then finished, and no other is begun.

    Raises:
        SystemExit: images are missing at that time.
    """
    for way, fields in ways.items():
        missing = [row for row in rows if not image_path(work, way, row).exists()]
        by_id = {row.request.id: row for row in missing}
        engine = Engine(models, with_fields(preset, dict(fields)), slots)
        requests = (row.request for row in missing if time.monotonic() < until)
        done = 0
        for done, ended in enumerate(translate(engine, requests), 1):
            if ended.image is None:
                raise RuntimeError(f"{way}, {ended.id}: {ended.error}")
            path = image_path(work, way, by_id[ended.id])
            path.parent.mkdir(parents=True, exist_ok=True)
            # Before the image, which says that the row is made.
            path.with_suffix(".json").write_text(json.dumps(ended.losses[-1].losses) + "\n")
            path.write_bytes(encode_png(ended.image))
            print(f"\r{way}: {done} of {len(missing)}", end="", file=sys.stderr, flush=True)
        if missing:
            print(file=sys.stderr)
        if done < len(missing):
            raise SystemExit(f"out of time: {done} of {len(missing)} made; run again to go on")


def read_images(way: str, rows: Sequence[BenchmarkRow], work: Path) -> list[ImageArray]:
    """The images of a way or of a baseline, in the order of rows."""
    if way in BASELINES:
        return [BASELINES[way](row.request.content, row.style) for row in rows]
    return [decode(image_path(work, way, row).read_bytes()) for row in rows]


def read_losses(way: str, rows: Sequence[BenchmarkRow], work: Path) -> list[dict[str, float]]:
    """Losses of each row at its last guided step, in the order of rows; NaN: not computed."""
    paths = [image_path(work, way, row).with_suffix(".json") for row in rows]
    return [json.loads(path.read_text()) for path in paths]
