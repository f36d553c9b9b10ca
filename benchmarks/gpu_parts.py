"""The parts of `benchmarks/gpu_check.py`, each for a process of its own."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.device_rates import bandwidth, matrix_rate
from benchmarks.fake_cuda import fake_cuda
from benchmarks.gpu_ways import EngineWay, flops_of_step, seconds_of_conditions, weight_bytes
from benchmarks.kernel_watch import watched_steps
from benchmarks.random_networks import kind_of, prepared, random_models, random_rows
from benchmarks.table import machine
from dstc_engine.compiled import MODES
from dstc_engine.engine import Engine, translate
from dstc_engine.errors import DstcError
from dstc_engine.fit_slots import slots_that_fit
from dstc_engine.graphs import made_for_steps
from dstc_engine.models import Models
from dstc_engine.presets import Preset, get_preset
from dstc_engine.request import Translation
from dstc_engine.step_memory import step_memory
from tests.parity.golden_chains import check_chain
from tests.parity.golden_networks import (
    goldens_folder,
    load_clip,
    load_dino,
    load_unet,
    read_config,
)

_GIB = 2**30


class Notes:
    """What a part has found, written to its file after each entry.

    Args:
        file: JSON. until: `time.monotonic()` at which the part is cut off.
    """

    def __init__(self, file: Path, until: float) -> None:
        self.found: dict[str, Any] = {}
        self._file, self._until = file, until

    @property
    def left(self) -> float:
        """Seconds."""
        return self._until - time.monotonic()

    def add(self, key: str, *values: Any) -> None:
        """Entries of a list: "lines" for people, "amiss", "skipped", or numbers of the part."""
        self.found.setdefault(key, []).extend(values)
        self._file.write_text(json.dumps(self.found, indent=1) + "\n")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Notes what breaks inside, and goes on."""
        try:
            yield
        except (torch.OutOfMemoryError, DstcError) as error:
            self.add("skipped", f"{what}: {str(error).splitlines()[0]}")
        except Exception as error:
            self.add("amiss", f"{what}: {type(error).__name__}: {str(error)[:500]}")

    def has(self, seconds: float, what: str) -> bool:
        """Whether so much time is left; what is left out is noted."""
        if self.left >= seconds:
            return True
        self.add("skipped", f"{what}: needs {seconds:.0f} s, {max(self.left, 0):.0f} s were left")
        return False


def parity(notes: Notes, device: str, shrink: bool) -> None:
    """The golden chains in fp32, whose networks are small as they are."""
    folder, config = goldens_folder(), read_config()
    goldens = load_file(folder / "goldens.safetensors")
    models = Models(
        unet=load_unet(folder, config),
        dino=load_dino(folder, config),
        clips=(load_clip(folder, config),),
        device=torch.device(device),
    )
    for trajectory in config["trajectories"]:
        name = trajectory["name"]
        try:
            worst = check_chain(trajectory, config, goldens, models)
            notes.add("lines", f"{name}: samples within {worst:.1e} of the golden ones")
        except AssertionError as error:
            notes.add("amiss", f"{name}: {str(error)[:500]}")


# In the order of what is asked most. Of a text preset, rows have a style too.
_WATCHED = (
    ("imagenet256-text", "bf16"),
    ("imagenet256-image", "bf16"),
    ("ffhq256-text", "bf16"),
    ("imagenet256-text", "fp16"),
    ("imagenet256-text", "fp32"),
    ("imagenet512-image", "bf16"),
)


def watch(notes: Notes, device: str, shrink: bool) -> None:
    """Three steps of two rows; on a CPU, of fake CUDA tensors."""
    is_real = device.startswith("cuda")
    for name, precision in _WATCHED[: 2 if shrink else None]:
        what = f"{name} {precision}"
        if not notes.has(10.0, what):
            continue
        kind = "image" if name.endswith("image") else "both"
        preset = prepared(get_preset(name), kind, shrink)
        place = nullcontext() if is_real else fake_cuda()
        with notes.attempt(what), place, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            models = random_models(preset, device if is_real else "cuda", precision, shrink)
            if is_real:
                torch.cuda.set_sync_debug_mode("warn")
            done = watched_steps(
                Engine(models, preset, 2), random_rows(kind, 2, preset.image_size), 3
            )
            if is_real:
                torch.cuda.set_sync_debug_mode("default")
            notes.add("amiss", *(f"{what}: {found}" for found in done.amiss()))
            synchronizing = sum("synchronizing" in str(warning.message) for warning in warned)
            waits = [sum(of_step.values()) for of_step in done.waits]
            notes.add(
                "steps",
                {
                    "preset": name,
                    "precision": precision,
                    "waits": waits,
                    "pytorch_warned": synchronizing,
                    "kernels": done.kernels,
                    "attention": sum(done.attention.values()),
                    "fused_attention": done.fused,
                },
            )
            notes.add(
                "lines",
                f"{what}: waits {waits} (PyTorch warned of {synchronizing}), {done.kernels} "
                f"kernels, attention {done.fused} of {sum(done.attention.values())} fused",
            )


def bits(notes: Notes, device: str, shrink: bool) -> None:
    """Chains of six steps: again, and each row alone in another slot."""
    for precision in ("bf16", "fp32"):
        what = f"bits in {precision}"
        if not notes.has(10.0, what):
            continue
        preset = prepared(get_preset("imagenet256-image"), "both", shrink)
        preset = dataclasses.replace(preset, weight_clip=2000.0, respacing="20", skip=15)
        preset = dataclasses.replace(preset, resample=2, clips=preset.clips[:1])
        with notes.attempt(what):
            models = random_models(preset, device, precision, shrink)
            rows = random_rows("both", 4, preset.image_size)

            def run(numbers: tuple[int, ...], models: Models = models, preset: Preset = preset,
                    rows: Any = rows) -> dict[str, Translation]:  # fmt: skip
                engine = Engine(models, preset, len(rows))
                return {row.id: row for row in translate(engine, [rows[n] for n in numbers])}

            first = run((0, 1, 2, 3))
            for how, numbers in (("again", (0, 1, 2, 3)), ("other slots", (3, 2)), ("alone", (1,))):
                found = [_difference(first[name], row) for name, row in run(numbers).items()]
                equal = sum(difference == (0, 0.0) for difference in found)
                levels = max(difference[0] for difference in found)
                loss = max(difference[1] for difference in found)
                notes.add(
                    "lines",
                    f"{precision}, {how}: {equal} of {len(found)} rows equal to the last bit; at "
                    f"most {levels} levels and {loss:.1e} of a loss apart",
                )
                notes.add(
                    "compared",
                    {"precision": precision, "how": how, "rows": len(found), "equal": equal}
                    | {"levels": levels, "loss": loss},
                )


def _difference(ours: Translation, theirs: Translation) -> tuple[int, float]:
    """The largest difference of a pixel, in levels, and of a loss, as a share of it."""
    if ours.image is None or theirs.image is None:
        return (0, 0.0) if ours.status == theirs.status else (255, 1.0)
    levels = int(np.abs(ours.image.astype(int) - theirs.image).max())
    worst = 0.0
    for mine, other in zip(ours.losses, theirs.losses, strict=False):
        for name, value in mine.losses.items():
            if value == value and value != other.losses[name]:
                worst = max(worst, abs(value - other.losses[name]) / max(abs(value), 1e-12))
    return levels, worst


def slots(notes: Notes, device: str, shrink: bool) -> None:
    """`--slots auto`, beside the number that it starts from."""
    if not device.startswith("cuda"):
        notes.add("skipped", "slots: only a GPU's memory is measured")
        return
    for name in ("imagenet256-text", "imagenet256-image"):
        preset = get_preset(name)
        if notes.has(15.0, name):
            with notes.attempt(name):
                models = random_models(preset, device, "bf16")
                card = torch.cuda.mem_get_info()[1]
                known = step_memory(preset, "bf16")
                expected = known.slots_on(card) if known else None
                found = slots_that_fit(models, preset)
                notes.add("found", {"preset": name, "slots": found, "expected": expected})
                notes.add("lines", f"{name} bf16: {found} slots fit; {expected} expected")


def speed(notes: Notes, device: str, shrink: bool) -> None:
    """Ways in the order of what is asked most: bf16 and 8 slots, eager, then compiled."""
    notes.found["machine"] = machine(device)
    notes.found["bandwidth"] = bandwidth(torch.device(device))
    rate = matrix_rate(torch.device(device), "bf16")
    notes.found["matrix_flops"] = rate
    names = ("imagenet256-image", "imagenet256-text")
    sizes = (2, 1) if shrink else (8, 1, 16, 32)
    for size in sizes:
        for name in names:
            _time(notes, name, "no", size, device, shrink, rate)
        for mode in _COMPILED:
            for name in names if size == sizes[0] or notes.left > 60 else ():
                if shrink:
                    notes.add("skipped", f"{name}, {mode}: compiled at full size alone")
                elif notes.has(45.0, f"{name}, {mode}, {size} slots"):
                    _time(notes, name, mode, size, device, shrink, rate)
    for name in names:
        _time(notes, name, "no", sizes[0], device, shrink, rate, "fp32")


# Tuning takes longer than the whole check.
_COMPILED = tuple(mode for mode in MODES if mode != "no" and "autotune" not in mode)


def _time(
    notes: Notes,
    name: str,
    mode: str,
    size: int,
    device: str,
    shrink: bool,
    rate: float,
    precision: str = "bf16",
) -> None:
    way = "eager" if mode == "no" else mode
    what = f"{name} {precision}, {size} slots, {way}"
    if not notes.has(5.0, what):
        return
    is_gpu = device.startswith("cuda")
    with notes.attempt(what):
        kind = kind_of(get_preset(name))
        preset = prepared(get_preset(name), kind, shrink)
        models = random_models(preset, device, precision, shrink)
        if is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        made = made_for_steps(models, mode)
        engine = EngineWay(models, preset, size, kind, made)
        engine.run(1)
        ready = time.perf_counter() - began
        engine.seconds.clear()
        engine.run(1 if shrink else 5)
        memory = {}
        if is_gpu:
            memory["allocated"] = torch.cuda.max_memory_allocated()
            memory["reserved"] = torch.cuda.max_memory_reserved()
        conditions = seconds_of_conditions(models, preset, kind, repeats=1)
        image = engine.seconds_per_image(conditions)
        flops = flops_of_step(models, preset, kind) * preset.guided_steps
        step = statistics.median(engine.seconds)
        record = {
            "preset": name,
            "precision": precision,
            "way": way,
            "slots": size,
            "first_steps_seconds": ready,
            "step_seconds": step,
            "conditions_seconds": conditions,
            "images_per_second": 1 / image,
            "tflops": flops / image / 1e12,
            "share_of_matrix_rate": flops / image / rate,
            "weights": weight_bytes(models),
            "failed_rows": engine.failed,
        }
        notes.add("ways", record | memory)
        notes.add(
            "lines",
            f"{what}: {1 / image:.4f} images/s, step {step * 1000:.1f} ms, "
            f"{flops / image / rate:.0%} of the matrix rate, "
            f"{memory.get('reserved', 0) / _GIB:.1f} GiB; first steps {ready:.0f} s",
        )


RUN: dict[str, Callable[[Notes, str, bool], None]] = {
    "parity": parity,
    "watch": watch,
    "bits": bits,
    "slots": slots,
    "speed": speed,
}
