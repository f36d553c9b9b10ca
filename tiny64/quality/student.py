"""A student against the guided engine that taught it, on subjects that neither was trained on.

    dstc emoji build data
    python -m tiny64.quality.student data/emoji-64.parquet --work student-benchmark

Flat drawings, made glossy: one look after a style image, one after words, or others (--looks). A
guided run over train subjects (the pilot) teaches a student; then a guided run, the student alone,
and the student with guidance where its gates refuse an image, all over the same test subjects. What
is told: style by a classifier and shape by silhouettes, which guidance never sees, the ViT's
structure distance, and sharpness; means with 95 % bootstrap intervals, and of differences row by
row. Then images per second of both on one core, in turns. All runs are jobs as a user submits them;
they stay in --work, with a sheet of each look, and a second call goes on where the first stopped.

A look that guidance hits in part of its tries, of which the student learns from the best:

    python -m tiny64.quality.student data/emoji-64.parquet --work soft --looks soft-by-text \
        --tries 3 --set keep=0.2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import dstc
from benchmarks.table import print_table
from dstc.distil import DistilPlan, distil, say_compared
from dstc.options import Device, read_key_values
from dstc_engine.encoders.dino import Dino
from dstc_engine.engine import Engine, translate
from dstc_engine.image import decode
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.models import load_models
from dstc_engine.presets import get_preset
from dstc_engine.request import ImageArray, Translation, TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.gates import sharpness
from dstc_engine.student.load import load_student
from dstc_engine.tensors import to_tensor
from dstc_engine.training.sheet import write_sheet
from tiny64.captions import STYLE_PHRASES
from tiny64.quality.__main__ import cell, fit_classifier
from tiny64.quality.measures import Array, measure
from tiny64.quality.rows import BenchmarkRow

# Left out of all contents, so that none is its own style image.
STYLE_SUBJECT = "1f9f8"


@dataclass(frozen=True)
class EmojiLook:
    """Drawings of one style, made those of another: after an image in it, or after words."""

    own: str
    target: str
    by_text: bool

    @property
    def asks(self) -> Mapping[str, str | None]:
        """The columns of a row."""
        if self.by_text:
            prompt, source = STYLE_PHRASES[self.target], STYLE_PHRASES[self.own]
            return {"style": None, "prompt": prompt, "source_prompt": source}
        return {"style": f"{self.target}.png", "prompt": None, "source_prompt": None}


LOOKS: Mapping[str, EmojiLook] = {
    "gloss-by-image": EmojiLook("fluent_flat", "fluent_3d", by_text=False),
    "gloss-by-text": EmojiLook("fluent_flat", "fluent_3d", by_text=True),
    "color-by-image": EmojiLook("openmoji_line", "openmoji", by_text=False),
    "color-by-text": EmojiLook("openmoji_line", "openmoji", by_text=True),
    "soft-by-text": EmojiLook("fluent_flat", "noto", by_text=True),
    "lines-by-image": EmojiLook("openmoji", "openmoji_line", by_text=False),
    "lines-by-text": EmojiLook("openmoji", "openmoji_line", by_text=True),
}


@dataclass(frozen=True)
class Folder:
    """Where everything of one benchmark lies."""

    work: Path
    drawings: Sequence[dict[str, Any]]
    looks: Sequence[str]

    @cached_property
    def files(self) -> dict[tuple[str, str], bytes]:
        """The PNG of each subject and style."""
        return {(row["subject"], row["style"]): row["png"] for row in self.drawings}

    def subjects(self, look: str, split: str, count: int) -> list[str]:
        """So many of a split that have both styles of a look, in an order of a fixed seed."""
        of = {
            style: {
                r["subject"] for r in self.drawings if (r["style"], r["split"]) == (style, split)
            }
            for style in (LOOKS[look].own, LOOKS[look].target)
        }
        found = sorted(set.intersection(*of.values()) - {STYLE_SUBJECT})
        np.random.default_rng(0).shuffle(found)
        return found[:count]

    def write_manifest(self, name: str, split: str, count: int, tries: int = 1) -> Path:
        """A row for each look, subject and try, and the images that they name."""
        (self.work / "contents").mkdir(parents=True, exist_ok=True)
        rows = []
        for name_of_look in self.looks:
            look = LOOKS[name_of_look]
            style = self.files[STYLE_SUBJECT, look.target]
            (self.work / f"{look.target}.png").write_bytes(style)
            for subject in self.subjects(name_of_look, split, count):
                content = f"contents/{look.own}-{subject}.png"
                (self.work / content).write_bytes(self.files[subject, look.own])
                # A row's seed is its id's.
                ids = [f"{name_of_look}-{subject}" + f"-{n}" * bool(n) for n in range(tries)]
                rows += [{"id": row_id, "content": content, **look.asks} for row_id in ids]
        path = self.work / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    def benchmark_rows(self, look: str, subjects: Sequence[str]) -> list[BenchmarkRow]:
        """What `measure` compares images with."""
        own, target, asks = LOOKS[look].own, LOOKS[look].target, LOOKS[look].asks
        style = decode(self.files[STYLE_SUBJECT, target])
        return [
            BenchmarkRow(
                look,
                number,
                TranslationRequest(
                    id=f"{look}-{subject}",
                    content=decode(self.files[subject, own]),
                    seed=number,
                    style=style if asks["style"] else None,
                    prompt=asks["prompt"],
                    source_prompt=asks["source_prompt"],
                ),
                own,
                target,
                style,
                decode(self.files[subject, target]),
            )
            for number, subject in enumerate(subjects)
        ]


def images_of(run: dstc.Run) -> dict[str, ImageArray]:
    """The images of a run, by id."""
    return {row_id: np.asarray(image.convert("RGB")) for row_id, image in run.images()}


def measured(
    rows: Sequence[BenchmarkRow],
    images: Sequence[ImageArray],
    classifier: StyleClassifier,
    dino: Dino,
) -> dict[str, Array]:
    """What is told of one way's images, one value a row."""
    found = measure(rows, images, classifier, dino)
    energy = [float(sharpness(to_tensor(image)[None])) for image in images]
    kept = {name: found[name] for name in ("style", "silhouette", "structure", "PSNR")}
    return {**kept, "sharpness": np.array(energy)}


def print_quality(look: str, found: Mapping[str, Mapping[str, Array]], fallback: float) -> None:
    """A line for each way, and what it has more than guidance, row by row."""
    guided = found["guided"]
    names = list(guided)
    table = [[way, *(cell(values[name], name) for name in names)] for way, values in found.items()]
    table += [
        [f"{way} less guided", *(cell(values[name] - guided[name], name) for name in names)]
        for way, values in found.items()
        if way.startswith("student")
    ]
    rows = len(guided["style"])
    print_table([f"{look}, {rows} subjects", *names], table)
    print(f"\n{fallback:.0%} of the student's images fail a gate, and are guided in a whole job.\n")


def write_comparison(
    path: Path, rows: Sequence[BenchmarkRow], images: Mapping[str, Mapping[str, ImageArray]]
) -> None:
    """A sheet: contents, guided results, and the student's images below each other."""
    of = [
        {row.request.id: row.request.content for row in rows},
        images["guided"],
        images["student alone"],
    ]
    parts = [torch.stack([to_tensor(by_id[row.request.id]) for row in rows]) for by_id in of]
    write_sheet(path, parts, scale=1)


def print_speed(requests: Sequence[TranslationRequest], student: Path, rounds: int = 3) -> None:
    """Images per second of both engines on one core, in turns; medians of the rounds."""
    preset = get_preset("tiny64")
    models = load_models(preset)
    of_student = load_student(str(student), preset)

    def made(ended: Iterable[Translation]) -> int:
        return sum(each.image is not None for each in ended)

    def guide() -> int:
        return made(translate(Engine(models, preset, 8), requests[:8]))

    def apply(judges: bool) -> int:
        engine: Any = StudentEngine(of_student, 64, judges)
        return made(translate(engine, requests[:64]))

    ways: dict[str, Callable[[], int]] = {
        "guided": guide,
        "student": partial(apply, judges=True),
        "student without gates": partial(apply, judges=False),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            start = time.process_time()
            count = run()
            if number:  # the first round fills caches
                seconds[way].append((time.process_time() - start) / count)
    table = []
    for way, found in seconds.items():
        times = [ours / its for ours, its in zip(seconds["guided"], found, strict=True)]
        rate = 1 / statistics.median(found)
        table.append([way, f"{rate:.2f}", f"{statistics.median(times):.0f}"])
    print_table(["one core", "images/s", "times guided"], table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where all runs are kept")
    parser.add_argument("--pilot", type=int, default=256, help="subjects of each look (256)")
    parser.add_argument("--looks", nargs="+", choices=LOOKS, default=list(LOOKS)[:2])
    parser.add_argument("--tries", type=int, default=1, help="of each row of the pilot (1)")
    parser.add_argument("--rows", type=int, default=64, help="subjects that are tried (64)")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="theirs (test)")
    parser.add_argument("--steps", type=int, default=1800, help="of the training (1800)")
    parser.add_argument("--actors", type=int, default=2, help="of the guided runs (2)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of distil")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = arguments.work.resolve()
    folder = Folder(work, pq.read_table(arguments.data).to_pylist(), arguments.looks)
    student = work / "student"
    options: dict[str, Any] = {"actors": arguments.actors, "device": "cpu"}

    pilot = folder.write_manifest("pilot", "train", arguments.pilot, arguments.tries)
    dstc.translate(pilot, work / "pilot", **options)
    compared = distil(
        DistilPlan(
            run=str(work / "pilot"),
            out=str(student),
            device=Device.cpu,
            steps=arguments.steps,
            settings=read_key_values(arguments.set),
        )
    )
    print("\n".join(say_compared(compared, str(student))))

    split = arguments.split
    test, runs_of = folder.write_manifest(split, split, arguments.rows), work / f"on-{split}"
    alone: dict[str, Any] = {"student": str(student), "fallback": "none"}
    runs = {
        "guided": dstc.translate(test, runs_of / "guided", **options),
        "student alone": dstc.translate(test, runs_of / "alone", **options, **alone),
        "student with fallback": dstc.translate(
            test, runs_of / "whole", **options, student=str(student)
        ),
    }
    images = {way: images_of(run) for way, run in runs.items()}
    made_by = runs["student with fallback"].table(["id", "made_by"]).to_pylist()
    classifier, dino = fit_classifier(folder.drawings), load_models(get_preset("tiny64")).dino
    assert dino is not None
    everything = []
    for look in folder.looks:
        rows = folder.benchmark_rows(look, folder.subjects(look, split, arguments.rows))
        everything += rows
        found = {
            way: measured(rows, [of[row.request.id] for row in rows], classifier, dino)
            for way, of in images.items()
        }
        truth = [row.truth for row in rows if row.truth is not None]
        found["content itself"] = measured(
            rows, [row.request.content for row in rows], classifier, dino
        )
        found["real drawings"] = measured(rows, truth, classifier, dino)
        here = [row["made_by"] == "guided" for row in made_by if row["id"].startswith(look)]
        print_quality(look, found, float(np.mean(here)))
        write_comparison(runs_of / f"{look}.png", rows[:16], images)
    print_speed([row.request for row in everything], student)


if __name__ == "__main__":
    main()
