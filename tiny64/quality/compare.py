"""Two presets on the same rows of the emoji benchmark, by task and by pair of styles.

    dstc emoji build data
    python -m tiny64.quality.compare data/emoji-64.parquet --work compare tiny64-variance tiny64

Means over rows with 95 % bootstrap intervals, and the same of differences row by row: content,
style image, prompt and seed are the same for both. Images stay in --work, in a folder for each
state of preset and weights: a second call makes those that are missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import print_table
from dstc_engine.models import load_models
from dstc_engine.presets import PRESETS, get_preset
from tiny64.quality.__main__ import cell, fit_classifier
from tiny64.quality.gates import state_of
from tiny64.quality.images import read_images, translate_missing
from tiny64.quality.measures import Array, measure
from tiny64.quality.rows import BenchmarkRow, benchmark_rows, group_of
from tiny64.quality.ways import WHOLE

_SHOWN = ("style", "silhouette", "both", "structure", "PSNR")


def differences(
    rows: Sequence[BenchmarkRow],
    found: Mapping[str, Mapping[str, Array]],
    group: Callable[[BenchmarkRow], str],
) -> list[list[str]]:
    """Lines of a table: for each group of rows each preset, and the second less the first.

    Args:
        found: by preset, what `measure` finds. group: a row's, such as its task.
    """
    of_rows = np.array([group(row) for row in rows])
    first, second = found
    lines = []
    for name in dict.fromkeys(of_rows.tolist()):
        here = of_rows == name
        values = {
            **{preset: {m: of[m][here] for m in _SHOWN} for preset, of in found.items()},
            "difference": {m: (found[second][m] - found[first][m])[here] for m in _SHOWN},
        }
        count = str(int(here.sum()))
        lines += [
            [name, what, count, *(cell(of[m], m) for m in _SHOWN)] for what, of in values.items()
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("presets", nargs=2, choices=[name for name in PRESETS if "tiny64" in name])
    parser.add_argument("--work", type=Path, required=True, help="where images are kept")
    parser.add_argument("--rows", type=int, default=48, help="of each of the four tasks (48)")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then stop making")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    torch.set_num_threads(1)
    drawings = pq.read_table(arguments.data).to_pylist()
    rows = benchmark_rows(drawings, arguments.rows, arguments.split)
    images = {}
    for name in arguments.presets:
        preset = get_preset(name)
        models = load_models(preset, precision=arguments.precision)
        work = arguments.work / state_of(preset, arguments.precision) / arguments.split
        translate_missing(models, preset, {WHOLE: {}}, rows, work, arguments.slots, until)
        images[name] = read_images(WHOLE, rows, work)
    # One ViT measures the structure of both: that of the first.
    classifier = fit_classifier(drawings)
    dino = load_models(get_preset(arguments.presets[0])).dino
    assert dino is not None
    found = {name: measure(rows, made, classifier, dino) for name, made in images.items()}
    print_table(
        [f"{arguments.split}, by task", "preset", "rows", *_SHOWN],
        differences(rows, found, lambda row: row.task),
    )
    print_table(
        [f"{arguments.split}, by styles", "preset", "rows", *_SHOWN],
        differences(rows, found, group_of),
    )


if __name__ == "__main__":
    main()
