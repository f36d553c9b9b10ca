"""Learns the limits of a preset's gates, and says what they catch and what they miss.

    dstc emoji build data
    python -m benchmarks.gates data/emoji-64.parquet --work gates

Translates subjects of the val split with tiny64 (benchmarks/emoji/rows.py), calls each picture good
or bad by judges that guidance never sees (silhouettes for the shape, the classifier of colours and
edges for the style), and chooses for each gate the limit that tells them apart best. What the
limits then do is told of the test split, which had no say in them. Pictures and losses stay in
--work, in a folder for each state of preset and weights: a second call makes those that are
missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from benchmarks.emoji.__main__ import fit_classifier
from benchmarks.emoji.measures import KEPT, overlap
from benchmarks.emoji.pictures import read_losses, read_pictures, translate_missing
from benchmarks.emoji.rows import BenchmarkRow, benchmark_rows
from benchmarks.emoji.style_classifier import StyleClassifier
from benchmarks.emoji.ways import WHOLE
from benchmarks.table import print_table
from dstc_engine.models import load_models
from dstc_engine.presets import Preset, get_preset, with_fields
from dstc_engine.request import Picture
from dstc_engine.weights import fetch, registry
from jobs.gates import GATES
from jobs.key_values import read_key_values

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SHAPE, STYLE = "shape", "style"
# What a gate's loss should tell.
JUDGED = {"structure": SHAPE, "range": SHAPE, "style_cls": STYLE, "clip": STYLE}
# Of pictures that a judge calls good: more flagged ones would cost more tries than they save.
MOST_GOOD_FLAGGED = 0.15
# Share of pairs (bad, good) in which the bad one has the higher loss; 0.5 is a coin.
LEAST_AUC = 0.6
# Of bad pictures and of good ones; fewer say nothing about a limit.
LEAST_OF_A_KIND = 5


@dataclass(frozen=True)
class Learned:
    """One gate's limit.

    Attributes:
        auc: share of pairs in which the bad picture has the higher loss; NaN without pairs.
        limit: None where no gate should be set. why_not: then, in a few words.
    """

    auc: float
    limit: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Caught:
    """What flags do to pictures, as shares; NaN where there is none to take a share of.

    Attributes:
        bad: of the bad ones that are flagged. good: of the good ones. precision: of the flagged
            ones that are bad. flagged, pictures: counts.
    """

    bad: float
    good: float
    precision: float
    flagged: int
    pictures: int


def auc(losses: Array, bad: Flags) -> float:
    """Share of pairs (bad, good) in which the bad one has the higher loss; ties count half."""
    difference = losses[bad][:, None] - losses[~bad][None, :]
    if not difference.size:
        return float("nan")
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def learn(losses: Array, bad: Flags) -> Learned:
    """The limit of highest Youden's J: share of bad ones flagged less share of good ones.

    Args:
        losses: (N,), NaN where the loss was not computed. bad: (N,).
    """
    has = ~np.isnan(losses)
    losses, bad = losses[has], bad[has]
    found = auc(losses, bad)
    if min(bad.sum(), (~bad).sum()) < LEAST_OF_A_KIND:
        return Learned(found, None, f"{bad.sum()} bad and {(~bad).sum()} good ones are too few")
    if found < LEAST_AUC:
        return Learned(found, None, "does not tell bad from good")
    steps = np.unique(losses)
    # Between neighbours, and told with as many digits as anyone will type.
    limits = [float(f"{limit:.3g}") for limit in (steps[1:] + steps[:-1]) / 2]
    caught = {limit: catch(losses > limit, bad) for limit in limits}
    allowed = [limit for limit in limits if caught[limit].good <= MOST_GOOD_FLAGGED]
    best = max(allowed, key=lambda limit: caught[limit].bad - caught[limit].good, default=None)
    if best is None or caught[best].bad <= caught[best].good:
        return Learned(found, None, f"catches nothing at {MOST_GOOD_FLAGGED:.0%} of the good ones")
    return Learned(found, best)


def catch(flagged: Flags, bad: Flags) -> Caught:
    """What flags do, (N,) each."""

    def share(of: Flags, among: Flags) -> float:
        return float(of[among].mean()) if among.any() else float("nan")

    return Caught(
        bad=share(flagged, bad),
        good=share(flagged, ~bad),
        precision=share(bad, flagged),
        flagged=int(flagged.sum()),
        pictures=len(flagged),
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """Pictures and what is known of them, one entry for each row.

    Attributes:
        losses: by gate, NaN where not computed. bad: by judge.
    """

    rows: Sequence[BenchmarkRow]
    pictures: Sequence[Picture]
    losses: Mapping[str, Array]
    bad: Mapping[str, Flags]

    @property
    def is_bad(self) -> Flags:
        """By any judge."""
        return np.any([*self.bad.values()], axis=0)

    def flags(self, gate: str, limit: float | None) -> Flags:
        """NaN is never above a limit."""
        none = np.zeros(len(self.rows), bool)
        return none if limit is None else self.losses[gate] > limit


def judge(rows: Sequence[BenchmarkRow], work: Path, classifier: StyleClassifier) -> Judged:
    """Reads what `translate_missing` left, and asks the judges."""
    pictures, losses = read_pictures(WHOLE, rows, work), read_losses(WHOLE, rows, work)
    styles = classifier.predict(pictures)
    shapes = [overlap(p, row.request.content) for p, row in zip(pictures, rows, strict=True)]
    return Judged(
        rows,
        pictures,
        {gate: np.array([told[gate] for told in losses]) for gate in GATES},
        {
            SHAPE: np.array(shapes) < KEPT,
            STYLE: np.array([s != row.target for s, row in zip(styles, rows, strict=True)]),
        },
    )


def print_learned(learned: Mapping[str, Learned], val: Judged) -> None:
    table = []
    for gate, found in learned.items():
        bad = val.bad[JUDGED[gate]]
        caught = catch(val.flags(gate, found.limit), bad)
        limit = found.why_not if found.limit is None else f"{found.limit:g}"
        table.append([gate, JUDGED[gate], f"{found.auc:.2f}", limit, *_shares(caught)])
    print_table(["val", "judged by", "AUC", "limit", *_SHARES], table)


def print_told(learned: Mapping[str, Learned], of: Judged, split: str) -> None:
    """Each gate against its own judge, and all of them against both."""
    table = []
    everything = np.zeros(len(of.rows), bool)
    for gate, found in learned.items():
        flagged = of.flags(gate, found.limit)
        has = ~np.isnan(of.losses[gate])
        everything |= flagged
        if found.limit is not None:
            caught = catch(flagged[has], of.bad[JUDGED[gate]][has])
            table.append([gate, JUDGED[gate], f"{found.limit:g}", *_shares(caught)])
    table.append(["all", "either", "", *_shares(catch(everything, of.is_bad))])
    print_table([split, "judged by", "limit", *_SHARES], table)
    shares = ", ".join(f"{name} {bad.mean():.0%}" for name, bad in of.bad.items())
    print(f"\nBad by the judges, of {len(of.rows)}: {shares}, either {of.is_bad.mean():.0%}")


_SHARES = ("of bad flagged", "of good flagged", "of flagged bad", "flagged")


def _shares(caught: Caught) -> list[str]:
    values = (caught.bad, caught.good, caught.precision)
    shares = ["" if np.isnan(value) else f"{value:.0%}" for value in values]
    return [*shares, f"{caught.flagged} of {caught.pictures}"]


def state_of(preset: Preset, precision: str) -> str:
    """Names what decides the pictures: preset (but for its gates), weights and precision."""
    fields = {k: v for k, v in dataclasses.asdict(preset).items() if not k.startswith("gate_")}
    sums = {w.name: w.sha256 or fetch.upstream_sum(w) for w in registry.weights_of(preset)}
    told = json.dumps([fields, sums, precision], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where pictures are kept")
    parser.add_argument("--rows", type=int, default=32, help="of each of the four tasks (32)")
    parser.add_argument("--check", type=int, default=16, help="the same, of the test split (16)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--slots", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset = with_fields(get_preset("tiny64"), read_key_values(arguments.set))
    work = arguments.work / state_of(preset, arguments.precision)
    drawings = pq.read_table(arguments.data).to_pylist()
    rows = {
        split: benchmark_rows(drawings, count, split)
        for split, count in (("val", arguments.rows), ("test", arguments.check))
    }
    models = load_models(preset, precision=arguments.precision)
    for split, of_split in rows.items():
        translate_missing(models, preset, {WHOLE: {}}, of_split, work / split, arguments.slots)
    classifier = fit_classifier(drawings)
    judged = {split: judge(of, work / split, classifier) for split, of in rows.items()}
    val = judged["val"]
    learned = {gate: learn(val.losses[gate], val.bad[JUDGED[gate]]) for gate in GATES}
    print_learned(learned, val)
    print_told(learned, judged["test"], "test")
    fields = (f"gate_{g}={f.limit:g}" for g, f in learned.items() if f.limit is not None)
    print("\nFields:", ", ".join(fields) or "none")


if __name__ == "__main__":
    main()
