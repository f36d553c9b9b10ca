"""The emoji benchmark in one command.

    dstc emoji build data
    python -m tiny64.quality data/emoji-64.parquet --work emoji-benchmark

Translates rows of the test split (tiny64/quality/rows.py) by our method, on aligned pairs also
with each of its parts left out (ways.py), and by methods that need no training (baselines.py). It
prints for each task a table (measures.py) of means over rows with 95 % bootstrap intervals, and one
of what differs from our method, row by row. Images stay in --work: a second call makes those that
are missing. `--split val` is for choosing; test is for reporting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import print_table
from dstc.options import read_key_values
from dstc_engine.image import decode
from dstc_engine.metrics.bootstrap import interval
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.models import load_models
from dstc_engine.presets import get_preset, with_fields
from dstc_engine.training.settings import with_settings
from tiny64.captions import STYLE_PHRASES
from tiny64.quality.baselines import BASELINES
from tiny64.quality.images import read_images, translate_missing
from tiny64.quality.measures import MEASURES, Array, measure
from tiny64.quality.random_vgg import random_vgg
from tiny64.quality.rows import TASKS, BenchmarkRow, benchmark_rows
from tiny64.quality.splice import SPLICED, Splicing, is_spliced, splice_missing
from tiny64.quality.ways import ABLATIONS, WHOLE, is_tried

_DIGITS = {"structure": 4, "PSNR": 1, "sharpness": 1, "percent": 1}


def fit_classifier(drawings: Sequence[dict[str, Any]]) -> StyleClassifier:
    """On the train split; tells how often it is right on val."""
    sets = {}
    for split in ("train", "val"):
        chosen = [d for d in drawings if d["split"] == split and d["style"] in STYLE_PHRASES]
        images = [decode(d["png"]) for d in chosen]
        sets[split] = images, [d["style"] for d in chosen]
    classifier = StyleClassifier(*sets["train"])
    images, styles = sets["val"]
    right = np.mean([a == b for a, b in zip(classifier.predict(images), styles, strict=True)])
    print(f"The style classifier is right on {right:.1%} of the val images.")
    return classifier


def cell(values: Array, name: str) -> str:
    """Mean and interval; empty where there is none."""
    mean, low, high = interval(values)
    digits = _DIGITS.get(name, 2)
    return "" if np.isnan(mean) else f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def print_task(task: str, rows: Sequence[BenchmarkRow], found: dict[str, dict[str, Array]]) -> None:
    """A line for each way, and what each way differs by from ours on the rows that both have."""
    here = np.array([row.task == task for row in rows])
    means, differences = [], []
    for way, values in found.items():
        of_way = {name: values[name][here] for name in MEASURES}
        count = int((~np.isnan(of_way["silhouette"])).sum())
        if not count:
            continue
        means.append([way, str(count), *(cell(of_way[name], name) for name in MEASURES)])
        if way != WHOLE:
            ours = found[WHOLE]
            changed = [cell(of_way[name] - ours[name][here], name) for name in MEASURES]
            differences.append([way, str(count), *changed])
    print_table([task, "rows", *MEASURES], means)
    print_table([f"{task}: less ours", "rows", *MEASURES], differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where images are kept")
    parser.add_argument("--rows", type=int, default=48, help="of each of the four tasks (48)")
    parser.add_argument(
        "--ablated-rows", type=int, default=24, help="of each aligned task, parts left out (24)"
    )
    parser.add_argument(
        "--spliced-rows", type=int, default=0, help="of each image task, by Splicing ViT (0)"
    )
    parser.add_argument(
        "--splicing",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how Splicing ViT is trained, such as steps=1000",
    )
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--ways", nargs="+", choices=list(ABLATIONS), default=list(ABLATIONS))
    parser.add_argument("--preset", default="tiny64")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where all values are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    drawings = pq.read_table(arguments.data).to_pylist()
    rows = benchmark_rows(drawings, arguments.rows, arguments.split)
    preset = with_fields(get_preset(arguments.preset), read_key_values(arguments.set))
    models = load_models(preset, precision=arguments.precision)
    models.vgg = random_vgg(
        preset, arguments.precision
    )  # the way that has no DINO looks through it
    found: dict[str, dict[str, Array]] = {}
    classifier, dino = fit_classifier(drawings), load_models(preset).dino
    assert dino is not None
    splicing = with_settings(Splicing(), read_key_values(arguments.splicing, "--splicing"))
    changing = [way for way in arguments.ways if with_fields(preset, ABLATIONS[way]) != preset]
    spliced = [row for row in rows if is_spliced(row, arguments.spliced_rows)]
    splice_missing(spliced, dino, arguments.work, splicing)
    peers = [*BASELINES, *([SPLICED] if spliced else [])]
    for way in [*peers, *sorted({WHOLE, *changing}, key=list(ABLATIONS).index)]:
        tried = rows if way in BASELINES else spliced
        if way in ABLATIONS:
            tried = [row for row in rows if is_tried(way, row, arguments.ablated_rows)]
            fields = {way: ABLATIONS[way]}
            translate_missing(models, preset, fields, tried, arguments.work, arguments.slots)
        values = measure(tried, read_images(way, tried, arguments.work), classifier, dino)
        place = [rows.index(row) for row in tried]
        found[way] = {name: np.full(len(rows), np.nan) for name in MEASURES}
        for name in MEASURES:
            found[way][name][place] = values[name]
    for task in TASKS:
        print_task(task, rows, found)
    if arguments.json:
        ways = {w: {n: v.tolist() for n, v in of.items()} for w, of in found.items()}
        record = {"rows": [row.request.id for row in rows], "ways": ways}
        arguments.json.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
