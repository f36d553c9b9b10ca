"""What the prior makes of the right answer, alone and with a guide that knows it.

    dstc emoji build data
    python -m tiny64.quality.round_trip data/emoji-64.parquet --work trips --split val --rows 24

On aligned pairs the right answer is known. It goes through the preset's chain as the content of its
own translation, unguided: noised to the chain's start, and denoised by the prior. What no longer
has its style then was lost by the prior, and guidance has to bring it back against it.

A second table is of the contents, guided by their answers: the distance to the answer's pixels is
the only loss. What still misses its style then is hardly the guides' fault. It is no strict bound:
a guide that asked the classifier itself could hit more, and not by drawing better.

What is lost is mostly the flatness of colors. A third table says how little grain makes the
classifier lose a style: that of answers to which white noise was added.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import print_table
from dstc.options import read_key_values
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.models import load_models
from dstc_engine.presets import get_preset, with_fields
from dstc_engine.request import ImageArray
from tiny64.quality.__main__ import fit_classifier
from tiny64.quality.images import read_images, translate_missing
from tiny64.quality.measures import Array, overlap
from tiny64.quality.rows import BenchmarkRow, benchmark_rows
from tiny64.quality.ways import ABLATIONS, UNGUIDED

ALONE, GUIDED = "answers, unguided", "contents, guided by their answers"
# Beside no other weight its size does not matter: the spherical step is as long for any.
BY_ANSWER = {**ABLATIONS[UNGUIDED], "weight_style_pixels": "1"}
GRAINS = (1, 2, 3, 5)
# By how much a Laplacian (4, and four times -1) enlarges the deviation of white noise.
_LAPLACIAN_GAIN = 20**0.5


def with_answers(
    rows: Sequence[BenchmarkRow], place: Literal["content", "style"]
) -> list[BenchmarkRow]:
    """The rows on aligned pairs that have a style image, with their answers in place of an image.

    Args:
        place: of the request, what the answer takes the place of.
    """
    made = []
    for row in rows:
        if row.truth is not None and row.request.style is not None:
            image: dict[str, Any] = {place: row.truth}
            request = dataclasses.replace(row.request, **image)
            made.append(dataclasses.replace(row, request=request))
    return made


def grain(image: ImageArray, drawing: ImageArray) -> float:
    """White noise in the flat areas of a drawing, as its deviation in levels of 255.

    Args:
        image, drawing: (H, W, 3) uint8. A pixel of `drawing` is flat when its four neighbors are
            the same; without any, NaN.
    """
    own, around = _with_neighbors(drawing.astype(np.float64))
    flat = (around == own).all(axis=(0, 3))
    # Of the mean of three channels, whose noise is smaller by the root of 3.
    own, around = _with_neighbors(image.astype(np.float64).mean(axis=2))
    residual = (4 * own - around.sum(axis=0))[flat]
    return float(residual.std() / _LAPLACIAN_GAIN * 3**0.5) if residual.size else float("nan")


def _with_neighbors(image: Array) -> tuple[Array, Array]:
    """What is not at the border, and its four neighbors, stacked."""
    near = (image[:-2, 1:-1], image[2:, 1:-1], image[1:-1, :-2], image[1:-1, 2:])
    return image[1:-1, 1:-1], np.stack(near)


def grained(image: ImageArray, levels: float, rng: np.random.Generator) -> ImageArray:
    """An image with white noise of this deviation in levels of 255."""
    noisy = image + rng.normal(0, levels, image.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def lines(
    rows: Sequence[BenchmarkRow], images: Sequence[ImageArray], classifier: StyleClassifier
) -> list[list[str]]:
    """A line for each target style: how many answers have it, and how many of the images."""
    answers = [row.truth for row in rows if row.truth is not None]
    before, after = classifier.predict(answers), classifier.predict(list(images))
    pairs = list(zip(images, answers, strict=True))
    kept, grains = [overlap(*pair) for pair in pairs], [grain(*pair) for pair in pairs]
    made = []
    for target in dict.fromkeys(row.target for row in rows):
        here = [place for place, row in enumerate(rows) if row.target == target]
        shares = [np.mean([of[place] == target for place in here]) for of in (before, after)]
        shape = np.mean([kept[place] for place in here])
        noise = np.nanmean([grains[place] for place in here])
        taken = [after[place] for place in here]
        most = max(sorted(set(taken)), key=taken.count)
        cells = [target, str(len(here)), *(f"{share:.2f}" for share in (*shares, shape))]
        made.append([*cells, f"{noise:.1f}", f"{most} ({taken.count(most)})"])
    return made


def grain_lines(rows: Sequence[BenchmarkRow], classifier: StyleClassifier) -> list[list[str]]:
    """A line for each of GRAINS: how many answers still have their style, by target style."""
    targets, made = np.array([row.target for row in rows]), []
    for levels in (0, *GRAINS):
        rng = np.random.default_rng(0)
        noisy = [grained(row.truth, levels, rng) for row in rows if row.truth is not None]
        hits = np.array(classifier.predict(noisy)) == targets
        shares = [hits[targets == target].mean() for target in dict.fromkeys(targets)]
        made.append([str(levels), *(f"{share:.2f}" for share in shares)])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where images are kept")
    parser.add_argument("--rows", type=int, default=48, help="answers (48)")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--preset", default="tiny64")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--slots", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    drawings = pq.read_table(arguments.data).to_pylist()
    rows = benchmark_rows(drawings, arguments.rows, arguments.split)
    preset = with_fields(get_preset(arguments.preset), read_key_values(arguments.set))
    # Of the networks both ways need the prior alone.
    models = load_models(with_fields(preset, BY_ANSWER))
    classifier = fit_classifier(drawings)
    columns = ["rows", "answer has the style", "image has it", "silhouette", "grain"]
    answers = with_answers(rows, "content")
    for way, fields, of in (
        (ALONE, ABLATIONS[UNGUIDED], answers),
        (GUIDED, BY_ANSWER, with_answers(rows, "style")),
    ):
        translate_missing(models, preset, {way: fields}, of, arguments.work, arguments.slots)
        images = read_images(way, of, arguments.work)
        print_table([way, *columns, "mostly taken for"], lines(of, images, classifier))
    targets = dict.fromkeys(row.target for row in answers)
    print_table(["grain of answers", *targets], grain_lines(answers, classifier))


if __name__ == "__main__":
    main()
