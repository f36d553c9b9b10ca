"""Chooses steps and weights of tiny64 with the spherical step, by successive halving on val rows.

    dstc emoji build data
    python -m tiny64.quality.search data/emoji-64.parquet --work search

Candidates are a few set by hand and others drawn from `SPACE` with a fixed seed. All of them
translate the first rows of each benchmark task (rows.py), the better half of them more rows, and so
on (Jamieson & Talwalkar 2016, successive halving). docs/evaluation.md has the objective; images
stay in --work, and a second call makes those that are missing.

Other networks want other weights: --set names them, --only gives a file of candidates
({"name": {"weight_clip": "2000"}, ...}), and --reference the preset that they have to beat.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import print_table
from dstc.options import read_key_values
from dstc_engine.encoders.dino import Dino
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.models import load_models
from dstc_engine.presets import get_preset, with_fields
from tiny64.quality.__main__ import fit_classifier
from tiny64.quality.images import read_images, translate_missing
from tiny64.quality.measures import Array, measure
from tiny64.quality.rows import TASKS, BenchmarkRow, benchmark_rows, group_of

Fields = Mapping[str, str]

# Rows of each task in each round, and the candidates that reach it; the first round counts PLAIN.
ROUNDS = ((8, 6), (24, 2))
START = {
    "guidance_step": "spherical",
    "guidance_rate": "0.2",
    "resample": "1",
    "step_variance": "posterior",
}
# Where a chain starts: about t = 430 in all of them, as in the variance preset, or a little above.
CHAINS: tuple[Fields, ...] = (
    {"respacing": "25", "skip": "14", "divergence_gate": "7"},
    {"respacing": "25", "skip": "13", "divergence_gate": "7"},
    {"respacing": "25", "skip": "12", "divergence_gate": "7"},
    {"respacing": "20", "skip": "11", "divergence_gate": "6"},
)
# Only ratios of weights count, so those of the shape stay as they are.
SPACE: dict[str, tuple[str, ...]] = {
    "guidance_rate": ("0.15", "0.2", "0.25", "0.3"),
    "weight_clip": ("1000", "1500", "2000", "3000"),
    "weight_style_cls": ("220", "330", "440", "660"),
}
PLAIN = "plain"
BY_HAND: dict[str, Fields] = {
    "trial": {**START, **CHAINS[0]},
    PLAIN: {"guidance_step": "variance"},
    "clip 3000, more noise": {
        **START, **CHAINS[2], "guidance_rate": "0.3", "weight_clip": "3000",
    },
}  # fmt: skip
# Overlap of silhouettes that a task should keep: about that of the variance step.
LEAST_OVERLAP = dict(zip(TASKS, (0.93, 0.90, 0.90, 0.84), strict=True))


def candidates(count: int, seed: int = 0) -> dict[str, Fields]:
    """So many, those set by hand among them, by name."""
    rng = np.random.default_rng(seed)
    found = dict(BY_HAND)
    while len(found) < count:
        chain = CHAINS[rng.integers(len(CHAINS))]
        drawn = {field: values[rng.integers(len(values))] for field, values in SPACE.items()}
        fields = {**START, **chain, **drawn}
        if fields not in found.values():
            found[f"drawn {len(found)}"] = fields
    return found


def judged(
    rows: Sequence[BenchmarkRow], name: str, work: Path, classifier: StyleClassifier, dino: Dino
) -> dict[str, Array]:
    """What `measure` finds, and `likely`: the classifier's probability of the target's style."""
    images = read_images(name, rows, work)
    values = measure(rows, images, classifier, dino)
    place = [classifier.styles.index(row.target) for row in rows]
    values["likely"] = classifier.probabilities(images)[np.arange(len(rows)), place]
    return values


def score(
    rows: Sequence[BenchmarkRow], values: Mapping[str, Array], plain: Mapping[str, Array]
) -> float:
    """The objective, higher is better (docs/evaluation.md).

    Args:
        values, plain: of the candidate and of the variance step, one value a row.
    """
    tasks, groups = np.array([row.task for row in rows]), np.array([group_of(row) for row in rows])
    style, before = ((of["style"] + of["likely"]) / 2 for of in (values, plain))
    lost = [
        max(0.0, least - float(values["silhouette"][tasks == task].mean()))
        for task, least in LEAST_OVERLAP.items()
    ]
    worse = [
        max(0.0, float((before - style)[groups == group].mean())) for group in np.unique(groups)
    ]
    structure = float(values["structure"].mean())
    return float(style.mean() - 3 * np.mean(lost) - np.mean(worse) - 5 * structure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where images are kept")
    parser.add_argument("--candidates", type=int, default=ROUNDS[0][1])
    parser.add_argument("--only", type=Path, help="JSON of fields by name, for those drawn")
    parser.add_argument("--reference", default="tiny64-variance", help="preset to beat")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then stop making")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--slots", type=int, default=8)
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    torch.set_num_threads(1)
    drawings, reference = pq.read_table(arguments.data).to_pylist(), get_preset(arguments.reference)
    preset = with_fields(reference, read_key_values(arguments.set))
    precision = arguments.precision
    plain_models = models = load_models(reference, precision=precision)
    if preset != reference:
        models = load_models(preset, precision=precision)
    left, work = candidates(arguments.candidates), arguments.work
    if arguments.only:
        left = {PLAIN: {}, **json.loads(arguments.only.read_text())}
    classifier = None
    for number, (count, _) in enumerate(ROUNDS):
        rows = benchmark_rows(drawings, count, "val")
        for name, fields in left.items():
            of = (plain_models, reference) if name == PLAIN else (models, preset)
            translate_missing(*of, {name: fields}, rows, work, arguments.slots, until)
        classifier = classifier or fit_classifier(drawings)
        # One ViT measures the structure of all: that of the reference.
        assert plain_models.dino is not None
        found = {name: judged(rows, name, work, classifier, plain_models.dino) for name in left}
        scores = {name: score(rows, values, found[PLAIN]) for name, values in found.items()}
        best = sorted(scores, key=scores.__getitem__, reverse=True)
        columns = ("style", "likely", "silhouette", "structure")
        table = [
            [name, f"{scores[name]:.3f}", *(f"{found[name][c].mean():.4f}" for c in columns)]
            for name in best
        ]
        print_table([f"{count} rows of each task", "score", *columns], table)
        record = {name: {"fields": dict(left[name]), "score": scores[name]} for name in best}
        (work / f"round-{number}.json").write_text(json.dumps(record, indent=2) + "\n")
        if number + 1 < len(ROUNDS):
            further = [name for name in best if name != PLAIN][: ROUNDS[number + 1][1]]
            left = {name: left[name] for name in (PLAIN, *further)}


if __name__ == "__main__":
    main()
