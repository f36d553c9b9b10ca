"""What an option changes: images of a variant against the exact ones, and how much faster it is.

    python -m benchmarks.variants bf16 guidance_every=2 crops=2,clips=emoji64-clip
    python -m benchmarks.variants --manifest rows.parquet --rows 64 bf16
    python -m benchmarks.variants prior=runs/prior/prior.json

Each variant is a comma-separated list of `bf16`, `fp16` and preset fields. Rows, seeds and slots
are those of the exact run (fp32, the preset as it is). Per variant, means over rows:

    speed      guided rows per second over the exact run's, side by side in alternating pieces;
               not told of bf16 on a CPU without its instructions (`rounded_products.py`)
    PSNR       to the exact images, dB, 100 where equal; median and lowest of the rows
    structure  mean squared change of the ViT's key self-similarity, result against content
    style      mean squared distance of class tokens, result against style (rows with a style)
    text       minus the cosine of the result's CLIP embedding to the target (rows with a prompt)

The last three stand beside the exact run's own value: they say whether an image that differs is
also worse. They look through the preset's own networks, the ones that guide.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.rounded_products import RoundedProducts
from benchmarks.table import print_table
from dstc_engine.engine import Engine, translate
from dstc_engine.guidance.conditions import encode_conditions
from dstc_engine.image import decode, encode_png
from dstc_engine.losses.clip_direction import clip_direction_loss
from dstc_engine.losses.structure import structure_loss
from dstc_engine.losses.style import style_cls_loss
from dstc_engine.metrics.pixels import psnr
from dstc_engine.models import Models, load_models
from dstc_engine.precision import PRECISIONS, is_emulated
from dstc_engine.presets import Preset, get_preset, with_fields
from dstc_engine.request import ImageArray, TranslationRequest
from dstc_engine.tensors import to_tensor
from dstc_engine.weights.registry import names_of

# Rows that run before the other variant's turn: noise of a shared machine then falls on both.
_PIECE = 8


@dataclasses.dataclass
class Variant:
    """One way to translate, and what came of it.

    Attributes:
        name: as given. preset, precision: how. images: by row id. seconds: of each piece.
    """

    name: str
    preset: Preset
    precision: str
    images: dict[str, ImageArray] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def parse(cls, text: str, preset: Preset) -> Variant:
        """From "bf16,guidance_every=2"; a comma inside a value is written ";"."""
        parts = text.split(",")
        fields = dict(part.split("=", 1) for part in parts if "=" in part)
        (precision,) = [part for part in parts if part in PRECISIONS] or ["fp32"]
        unknown = [part for part in parts if "=" not in part and part not in PRECISIONS]
        if unknown:
            raise SystemExit(f"variant {text!r}: {unknown[0]!r} is no precision and no KEY=VALUE")
        values = {key: value.replace(";", ",") for key, value in fields.items()}
        return cls(text, with_fields(preset, values), precision)

    @property
    def is_emulated(self) -> bool:
        """Whether this CPU lacks what it asks for, so that its speed says nothing."""
        return self.precision == "bf16" and is_emulated(torch.device("cpu"), "bf16")

    def products(self) -> contextlib.AbstractContextManager[object]:
        """How its products are computed within."""
        return RoundedProducts() if self.is_emulated else contextlib.nullcontext()

    @property
    def networks(self) -> tuple[str, ...]:
        """What tells its networks from another variant's: the precision, and their names."""
        return (self.precision, *names_of(self.preset))

    def run(self, models: Models, rows: Sequence[TranslationRequest], slots: int) -> None:
        """Translates some rows and notes the time."""
        engine = Engine(models, self.preset, slots)
        started = time.perf_counter()
        with self.products():
            for done in translate(engine, rows):
                if done.image is not None:
                    self.images[done.id] = done.image
        self.seconds.append(time.perf_counter() - started)


def read_rows(manifest: Path, count: int | None) -> list[TranslationRequest]:
    """The first rows of a manifest whose images are local files."""

    def read(name: str | None) -> ImageArray | None:
        return decode((manifest.parent / name).read_bytes(), name) if name else None

    rows = []
    for number, row in enumerate(pq.read_table(manifest).slice(0, count).to_pylist()):
        content = read(row["content"])
        assert content is not None
        rows.append(
            TranslationRequest(
                id=row["id"],
                content=content,
                seed=row.get("seed") or number,
                style=read(row.get("style")),
                prompt=row.get("prompt"),
                source_prompt=row.get("source_prompt"),
            )
        )
    return rows


@torch.no_grad()
def measure(
    models: Models, preset: Preset, rows: Sequence[TranslationRequest], found: dict[str, ImageArray]
) -> dict[str, list[float]]:
    """Structure, style and text distance of the images, where the row has one."""
    values: dict[str, list[float]] = {"structure": [], "style": [], "text": []}
    for row in rows:
        if row.id not in found:
            continue
        to, _ = encode_conditions(models, preset, row)
        result = to_tensor(found[row.id])[None]
        seen = models.dino(result)
        values["structure"].append(float(structure_loss(seen.keys, to.source_similarity)))
        if row.style is not None:
            values["style"].append(float(style_cls_loss(seen.cls, to.style_cls)))
        if row.prompt is not None:
            losses = [
                clip_direction_loss(clip.embed_image(result)[:, None], target)
                for clip, target in zip(models.clips, to.clip_targets, strict=True)
            ]
            values["text"].append(float(torch.stack(losses).mean()))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="+", help="bf16, KEY=VALUE, or several with commas")
    parser.add_argument("--preset", default="tiny64")
    parser.add_argument("--manifest", type=Path, default=Path("manifests/demo.parquet"))
    parser.add_argument("--rows", type=int, default=None, help="of the manifest (all)")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--save", type=Path, help="folder for the images, exact beside variants")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset = get_preset(arguments.preset)
    rows = read_rows(arguments.manifest, arguments.rows)
    exact = Variant("exact", preset, "fp32")
    variants = [Variant.parse(text, preset) for text in arguments.variants]
    loaded = {v.networks: load_models(v.preset, precision=v.precision) for v in [exact, *variants]}
    # Kernels compile and memory grows at the first step.
    warm = rows[: arguments.slots]
    for variant in [exact, *variants]:
        engine = Engine(loaded[variant.networks], variant.preset, len(warm))
        for row in warm:
            engine.add(row)
        with variant.products():
            engine.step()
    for start in range(0, len(rows), _PIECE):
        for variant in [exact, *variants]:
            models = loaded[variant.networks]
            variant.run(models, rows[start : start + _PIECE], arguments.slots)
    exact_models = loaded[exact.networks]
    own = measure(exact_models, preset, rows, exact.images)
    table: list[list[object]] = [["exact", "1.00", "", "", *_means(own, own)]]
    for variant in variants:
        ratios = [a / b for a, b in zip(exact.seconds, variant.seconds, strict=True)]
        values = [psnr(variant.images[r.id], exact.images[r.id]) for r in rows]
        table.append(
            [
                variant.name,
                "" if variant.is_emulated else f"{statistics.median(ratios):.2f}",
                f"{statistics.median(values):.1f}",
                f"{min(values):.1f}",
                *_means(measure(exact_models, preset, rows, variant.images), own),
            ]
        )
    print_table(["variant", "speed", "PSNR", "lowest", "structure", "style", "text"], table)
    if arguments.save:
        _save(arguments.save, rows, [exact, *variants])


def _means(values: dict[str, list[float]], own: dict[str, list[float]]) -> list[str]:
    return [f"{statistics.mean(v):.4f}" if v else "" for v in values.values()]


def _save(folder: Path, rows: Sequence[TranslationRequest], variants: Sequence[Variant]) -> None:
    """One sheet: a row for each variant, a column for each row."""
    folder.mkdir(parents=True, exist_ok=True)
    bands = [np.concatenate([v.images[row.id] for row in rows], axis=1) for v in variants]
    (folder / "variants.png").write_bytes(encode_png(np.concatenate(bands, axis=0)))


if __name__ == "__main__":
    main()
