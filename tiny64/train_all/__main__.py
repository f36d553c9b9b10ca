"""Trains the three networks of tiny64 at once, on one device, in so many minutes.

    dstc emoji build data
    python -m tiny64.train_all data/emoji-64.parquet runs --minutes 8

Each network trains in a process of its own, from the weights that ship or from those of an earlier
call (`--from`). A sixteenth of the time, all three together, measures how many steps the rest has
room for: each rate falls by one cosine, which ends with the minutes. Each run is a folder as of
`dstc train`; what can ship, float16 weights with their descriptions, is then in runs/ship.

A GPU sees larger batches. It waits for views that the CPU makes (`dstc_engine.training.draws`), so
give it cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dstc_engine.training.checkpoint import load_checkpoint
from dstc_engine.training.loop import World
from dstc_engine.training.prior import PriorTraining, train_prior
from tiny64.clip import CLIPTraining
from tiny64.clip_training import train_clip
from tiny64.release.ship import ship
from tiny64.vit import ViTTraining
from tiny64.vit_training import train_vit

_MEASURING = 1 / 16
# Of the time that is left, what a cosine is planned for; the rest is for val metrics and saving.
_PLANNED = 0.88
_NO_END = 10**9


@dataclass(frozen=True)
class Training:
    """One of the three: its function, settings, the batch that a GPU sees; sizes, None: usual."""

    train: Callable[..., Path]
    how: Any
    gpu_batch: int
    config: Any = None


# All ten styles; the averages span thousands of steps. `low_noise`: the chain of tiny64 starts at
# t = 416. `l1`: less grain in flat areas, which decides the style (docs/evaluation.md).
# What the class token and CLIP tell apart: docs/evaluation.md, "What limits the style".
TRAININGS: Mapping[str, Training] = {
    "prior": Training(
        train_prior,
        PriorTraining(
            steps=_NO_END,
            ema=0.9995,
            low_noise=0.95,
            low_noise_below=450,
            l1=0.5,
            every_style=True,
        ),
        gpu_batch=128,
    ),
    "vit": Training(
        train_vit,
        ViTTraining(
            steps=_NO_END,
            ema=0.999,
            style=1.0,
            looks=0.7,
            crops=0.2,
            palette=0.15,
            perturbed=5.0,
            every_style=True,
        ),
        gpu_batch=256,
    ),
    "clip": Training(
        train_clip,
        CLIPTraining(steps=_NO_END, ema=0.999, companions=3, perturbed=4.0, every_style=True),
        gpu_batch=512,
    ),
}


def train_one(
    kind: str,
    data: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    initial: str | None = None,
    batch: int | None = None,
) -> Path:
    """Trains one network for so many minutes; returns the float16 weights in `out`/ship.

    Args:
        kind: of TRAININGS. out: a new folder; the run is in out/<kind>. initial: see `fit`; None:
            the weights that ship. batch: None: the one for the device.
    """
    began = time.monotonic()
    training, world = TRAININGS[kind], World(device=device)
    on_gpu = not device.startswith("cpu")
    usual = training.gpu_batch if on_gpu else training.how.batch
    how = replace(training.how, batch=batch or usual)
    initial = initial or f"emoji64-{kind}"
    measured = out / f"{kind}-measured"
    training.train(data, measured, training.config, how, minutes * _MEASURING, world, initial)
    state = load_checkpoint(measured / "checkpoint.pt")
    assert state is not None
    left = minutes - (time.monotonic() - began) / 60
    steps = max(1, int(_PLANNED * left * 60 * state["step"] / state["seconds"]))
    how = replace(how, steps=steps, **({"warmup": steps // 10} if kind == "prior" else {}))
    weights = training.train(data, out / kind, training.config, how, left, world, initial)
    description = json.loads(weights.with_suffix(".json").read_text())
    seconds = description["seconds"]
    rate = description["pictures"] / seconds
    print(f"{kind}: {description['pictures']:,} images in {seconds:.0f} s, {rate:.0f} images/s")
    return ship(weights, description, out / "ship")


def train_all(
    data: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    earlier: Path | None = None,
    batch: int | None = None,
) -> list[Path]:
    """Trains all three beside each other; returns the weights that can ship.

    Args:
        data: the Parquet of `dstc emoji build`. out: a new folder. earlier: `out` of another call,
            to start from. batch: of each network, None: those for the device.

    Raises:
        SystemExit: a training broke; what the others made is there.
    """
    if (out / "ship").exists():
        raise SystemExit(f"{out} holds trained networks; give a new folder, and --from {out}")
    children = {}
    for kind in TRAININGS:
        command = [sys.executable, "-m", "tiny64.train_all", str(data), str(out), "--only", kind]
        command += ["--minutes", str(minutes), "--device", device]
        command += ["--from", str(earlier)] if earlier else []
        command += ["--batch", str(batch)] if batch else []
        children[kind] = subprocess.Popen(command)
    broken = [kind for kind, child in children.items() if child.wait()]
    if broken:
        raise SystemExit(f"training broke: {', '.join(broken)}; the reason is above")
    return [out / "ship" / f"{kind}.safetensors" for kind in TRAININGS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("out", type=Path, help="new folder of the three runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="of everything (8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--from", dest="earlier", type=Path, help="folder of an earlier call")
    parser.add_argument("--batch", type=int, help="of each network")
    parser.add_argument("--only", choices=list(TRAININGS), help="one of them, in this process")
    given = parser.parse_args()
    if not given.only:
        train_all(given.data, given.out, given.minutes, given.device, given.earlier, given.batch)
        return
    initial = str(given.earlier / given.only) if given.earlier else None
    train_one(given.only, given.data, given.out, given.minutes, given.device, initial, given.batch)


if __name__ == "__main__":
    main()
