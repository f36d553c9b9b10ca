"""Learns the limits of tiny64's gates, and says what they catch and what they miss.

    dstc emoji build data
    python -m tiny64.quality.gates data/emoji-64.parquet --work gates

Translates subjects of the val split (tiny64/quality/rows.py), calls each image good or bad by
judges that guidance never sees (silhouettes for the shape, the classifier of colours and edges for
the style), and chooses for each gate the limit that tells them apart best (gate_limits.py). What
the limits then do is told of the test split, which had no say in them: what is flagged, and what
one other seed makes of it. Images and losses stay in --work, in a folder for each state of preset
and weights: a second call makes those that are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import print_table
from dstc.options import read_key_values
from dstc.worker import gates
from dstc.worker.row import derive_retry_seed
from dstc_engine.encoders.dino import Dino
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.models import Models, load_models
from dstc_engine.presets import Preset, get_preset, with_fields
from dstc_engine.request import ImageArray, StepLosses
from dstc_engine.tensors import to_tensor
from dstc_engine.weights import fetch, registry
from tiny64.quality.__main__ import fit_classifier
from tiny64.quality.failure_sheet import Failure, failure_sheet
from tiny64.quality.gate_limits import Array, Caught, Flags, Learned, auc, catch, learn
from tiny64.quality.images import read_images, read_losses, translate_missing
from tiny64.quality.measures import KEPT, overlap
from tiny64.quality.rows import BenchmarkRow, benchmark_rows
from tiny64.quality.ways import WHOLE

SHAPE, STYLE = "shape", "style"
# What a gate's loss should tell.
JUDGED = {"structure": SHAPE, "range": SHAPE, "style_cls": STYLE, "clip": STYLE}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Translations and what is known of them, one entry for each row.

    Attributes:
        losses: of the last guided step. styles: what the classifier takes them for. overlaps: of
            silhouettes with the content's.
    """

    rows: Sequence[BenchmarkRow]
    images: Sequence[ImageArray]
    losses: Sequence[Mapping[str, float]]
    styles: Sequence[str]
    overlaps: Array

    def loss(self, name: str) -> Array:
        """Values of a loss, one a row; NaN where it was not computed."""
        return np.array([losses[name] for losses in self.losses])

    @property
    def bad(self) -> dict[str, Flags]:
        """Which images are bad, by judge."""
        wrong = [style != row.target for style, row in zip(self.styles, self.rows, strict=True)]
        return {SHAPE: self.overlaps < KEPT, STYLE: np.array(wrong, bool)}

    @property
    def is_bad(self) -> Flags:
        """Which images are bad by either judge."""
        return np.any([*self.bad.values()], axis=0)

    def verdicts(self, limits: Mapping[str, float]) -> list[gates.Verdict]:
        """What the gates say."""
        return [gates.judge([StepLosses(0, "sample", dict(t))], limits) for t in self.losses]

    def flags(self, limits: Mapping[str, float]) -> Flags:
        """Whether any of the gates flags an image."""
        return np.array([verdict.flagged is not None for verdict in self.verdicts(limits)], bool)


class Studio:
    """Makes images and has them judged.

    Args:
        work: folder of the images that this state of preset and weights makes.
    """

    def __init__(
        self,
        models: Models,
        preset: Preset,
        slots: int,
        work: Path,
        classifier: StyleClassifier,
        until: float = float("inf"),
    ) -> None:
        self._models, self._preset, self._slots, self._until = models, preset, slots, until
        self._work, self._classifier = work, classifier

    def images(self, name: str, rows: Sequence[BenchmarkRow]) -> ImageSet:
        """Of a set of rows, which the name tells from all others."""
        work = self._work / name
        ways, until = {WHOLE: dict[str, str]()}, self._until
        translate_missing(self._models, self._preset, ways, rows, work, self._slots, until)
        found = read_images(WHOLE, rows, work)
        shapes = [overlap(p, row.request.content) for p, row in zip(found, rows, strict=True)]
        styles = self._classifier.predict(found) if rows else []
        return ImageSet(rows, found, read_losses(WHOLE, rows, work), styles, np.array(shapes))


def print_learned(learned: Mapping[str, Learned], val: ImageSet) -> None:
    table = []
    for gate, found in learned.items():
        limit = found.why_not if found.limit is None else f"{found.limit:g}"
        shares = _shares(_of_one(gate, found, val)) if found.limit is not None else [""] * 4
        table.append([gate, JUDGED[gate], f"{found.auc:.2f}", limit, *shares])
    print_table([f"val, {len(val.rows)} rows", "judged by", "AUC", "limit", *_SHARES], table)


def print_caught(learned: Mapping[str, Learned], test: ImageSet) -> None:
    """Each gate against its own judge, and all of them against both."""
    known = {gate: found for gate, found in learned.items() if found.limit is not None}
    table = [
        [gate, JUDGED[gate], *_shares(_of_one(gate, found, test))] for gate, found in known.items()
    ]
    everything = catch(test.flags(limits_in(learned)), test.is_bad)
    table.append(["all of them", "either", *_shares(everything)])
    print_table([f"test, {len(test.rows)} rows", "judged by", *_SHARES], table)
    shares = [f"{bad.mean():.0%} by {name}" for name, bad in test.bad.items()]
    print(f"\nBad: {', '.join(shares)}, {test.is_bad.mean():.0%} by either.")


def glanced(dino: Dino, of: ImageSet) -> Array:
    """The structure distance of each image as gates of a student see it (`Dino.glance`)."""
    contents, images = (
        torch.cat([dino.glance(to_tensor(image)[None], with_cls=False)[0] for image in drawings])
        for drawings in ([row.request.content for row in of.rows], of.images)
    )
    return structure_loss(images, self_similarity(contents)).double().numpy()


def print_glanced(dino: Dino, sets: Mapping[str, ImageSet]) -> None:
    """How well the shape is told by the last step's loss, and by a glance at the image."""
    table = [
        [f"{name}, {len(of.rows)} rows", f"{auc(of.loss('structure'), of.bad[SHAPE]):.2f}",
         f"{auc(glanced(dino, of), of.bad[SHAPE]):.2f}"]
        for name, of in sets.items()
    ]  # fmt: skip
    print_table(["AUC of the shape", "structure", "structure at a glance"], table)


def print_retried(limits: Mapping[str, float], before: ImageSet, after: ImageSet) -> None:
    """What one other seed makes of flagged rows, the better image kept."""
    pairs = zip(after.verdicts(limits), before.verdicts(limits), strict=True)
    kept = np.array([gates.is_better(new, old) for new, old in pairs], bool)
    passing = kept & ~after.flags(limits)
    judges = {**before.bad, "either": before.is_bad}
    judged_again = {**after.bad, "either": after.is_bad}
    changes = [
        f"{bad.sum()} then {np.where(kept, judged_again[name], bad).sum()} by {name}"
        for name, bad in judges.items()
    ]
    print(
        f"\nOf {len(kept)} flagged rows another seed was better for {kept.sum()}, and "
        f"{passing.sum()} pass. Bad before and after: {', '.join(changes)}."
    )


_SHARES = ("of bad flagged", "of good flagged", "of flagged bad", "flagged")


def _of_one(gate: str, found: Learned, of: ImageSet) -> Caught:
    losses = of.loss(gate)
    has = ~np.isnan(losses)
    assert found.limit is not None
    return catch(losses[has] > found.limit, of.bad[JUDGED[gate]][has])


def _shares(caught: Caught) -> list[str]:
    values = (caught.bad, caught.good, caught.precision)
    shares = ["" if np.isnan(value) else f"{value:.0%}" for value in values]
    return [*shares, f"{caught.flagged} of {caught.images}"]


def limits_in(learned: Mapping[str, Learned]) -> dict[str, float]:
    """The gates to set."""
    return {gate: found.limit for gate, found in learned.items() if found.limit is not None}


def with_other_seed(row: BenchmarkRow) -> BenchmarkRow:
    """The row as `--retry flagged` would try it."""
    seed = derive_retry_seed(row.request.seed, 1)
    return dataclasses.replace(row, request=dataclasses.replace(row.request, seed=seed))


def failures(of: ImageSet, limits: Mapping[str, float]) -> list[Failure]:
    """The images that a judge calls bad, and whether a gate saw it."""
    return [
        Failure(
            row=row,
            image=of.images[n],
            taken_for=of.styles[n],
            overlap=float(of.overlaps[n]),
            lost_shape=bool(of.bad[SHAPE][n]),
            flagged=verdict.flagged,
        )
        for n, (row, verdict) in enumerate(zip(of.rows, of.verdicts(limits), strict=True))
        if of.is_bad[n]
    ]


def state_of(preset: Preset, precision: str) -> str:
    """Names what decides the images: preset (but for its gates), weights and precision."""
    fields = {k: v for k, v in dataclasses.asdict(preset).items() if not k.startswith("gate_")}
    sums = {w.name: w.sha256 or fetch.upstream_sum(w) for w in registry.weights_of(preset)}
    text = json.dumps([fields, sums, precision], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where images are kept")
    parser.add_argument("--rows", type=int, default=64, help="of each task, in each split (64)")
    parser.add_argument("--preset", default="tiny64")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="a page of failures")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then stop making")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    torch.set_num_threads(1)
    preset = with_fields(get_preset(arguments.preset), read_key_values(arguments.set))
    drawings = pq.read_table(arguments.data).to_pylist()
    models = load_models(preset, precision=arguments.precision)
    studio = Studio(
        models,
        preset,
        arguments.slots,
        arguments.work / state_of(preset, arguments.precision),
        fit_classifier(drawings),
        until,
    )
    val, test = (
        studio.images(split, benchmark_rows(drawings, arguments.rows, split))
        for split in ("val", "test")
    )
    learned = {gate: learn(val.loss(gate), val.bad[JUDGED[gate]]) for gate in JUDGED}
    limits = limits_in(learned)
    print_learned(learned, val)
    print_caught(learned, test)
    assert models.dino is not None
    with torch.no_grad():
        print_glanced(models.dino, {"val": val, "test": test})
    flags = test.flags(limits)
    flagged = [row for row, is_flagged in zip(test.rows, flags, strict=True) if is_flagged]
    before = studio.images("test", flagged)
    after = studio.images("retry", [with_other_seed(row) for row in flagged])
    print_retried(limits, before, after)
    fields = ", ".join(f"gate_{gate}={limit:g}" for gate, limit in limits.items())
    print(f"\nFields: {fields or 'none'}")
    if arguments.sheet:
        arguments.sheet.write_bytes(failure_sheet(failures(test, limits)))


if __name__ == "__main__":
    main()
