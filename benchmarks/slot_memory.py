"""Counts the bytes that a step of each preset takes on a GPU, without one.

    python -m benchmarks.slot_memory [--presets NAME...] [--precisions P...]

Networks of full size run one step on fake CUDA tensors (`fake_cuda`), rows with both a prompt and a
style image, at 1, 4 and 16 slots; three numbers are fitted to these. Writes
`dstc_engine/step_memory.json`, after each preset, and keeps what it does not count. Then
`python docs/make_tables.py` renews the table of docs/performance.md. Some minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fake_cuda import fake_cuda
from benchmarks.random_networks import prepared, random_models
from dstc_engine import step_memory
from dstc_engine.engine import Engine
from dstc_engine.fit_slots import heaviest_row
from dstc_engine.models import Models
from dstc_engine.networks import networks_of
from dstc_engine.presets import PRESETS, Preset
from dstc_engine.step_memory import StepMemory, key_of, rows_in_group

FILE = Path(step_memory.__file__).with_name(step_memory.FILE)
SLOTS = (1, 4, 16)
PRECISIONS = ("fp32", "bf16")
CHECKPOINTING: tuple[bool | str, ...] = (False, "large", True)


def memory_of(preset: Preset, precision: str) -> dict[str, StepMemory]:
    """What is fitted to the peaks at `SLOTS`, without checkpointing and with each, by `key_of`."""
    preset = prepared(preset, "both")
    found = {}
    with fake_cuda() as card:
        models = random_models(preset, "cuda", precision)
        weights = card.now
        for checkpointing in CHECKPOINTING:
            models.unet.checkpointing = checkpointing
            key = key_of(precision, checkpointing)
            peaks = []
            for slots in SLOTS:
                card.reset_peak()
                first_step(models, preset, slots)
                peaks.append(card.peak)
                told = f"{preset.name} {key}, {slots} slots: {card.peak:,}"
                print(told, file=sys.stderr, flush=True)
            terms = np.array([[1, slots, rows_in_group(slots)] for slots in SLOTS], float)
            fixed, each, in_group = np.linalg.solve(terms, np.array(peaks, float))
            found[key] = StepMemory(weights, round(fixed), round(each), round(in_group))
    return found


def first_step(models: Models, preset: Preset, slots: int) -> None:
    """Of a full table of rows with the same images, of which one has a prompt.

    CLIP sees one group of rows at a time, of one size however many rows need it: the others would
    take time and no other memory.
    """
    engine = Engine(models, preset, slots)
    row = heaviest_row(preset)
    engine.add(row)
    for _ in range(slots - 1):
        engine.add(dataclasses.replace(row, prompt=None))
    engine.step()


def alike(preset: Preset) -> tuple[Any, ...]:
    """What the bytes of a step depend on; presets in which it is equal take the same."""
    return (
        tuple(sorted(networks_of(preset).items())),
        *(preset.image_size, preset.dino_size, preset.crops, preset.vgg_size),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    done: set[tuple[Any, ...]] = set()
    for name in arguments.presets:
        kind = alike(PRESETS[name])
        if kind in done:
            continue
        done.add(kind)
        for precision in arguments.precisions:
            counted = memory_of(PRESETS[name], precision)
            for other, preset in PRESETS.items():
                if alike(preset) == kind:
                    of_other = found.setdefault(other, {})
                    of_other |= {key: dataclasses.asdict(each) for key, each in counted.items()}
            ordered = {other: found[other] for other in PRESETS if other in found}
            FILE.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
