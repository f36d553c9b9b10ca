"""The engine at full size on one GPU: images per second, share of the matrix rate, memory.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --presets imagenet256-image --precisions bf16 --slots 8 16 32
    python -m benchmarks.gpu --device cpu --shrink --slots 1 2 --steps 1 --rounds 1

Needs torch, timm and open_clip alone; also runs as `python benchmarks/gpu.py`. Networks have the
sizes of the published ones and random values, images mean nothing. For each preset and precision
these take turns, a few steps at a time: the authors' evaluation pattern, the engine eager and
compiled, with each number of slots. Seconds per image are those of the preset's whole chain:

    engine            guided steps x median step / slots + conditions of a row
    official pattern  steps with the divergence and without it, each as measured

`TFLOP/s` and `of matrix rate` stand on the operations of the engine's step (a multiplication with
its addition counts as two), also for the official pattern, which does more for the same image;
the rate is that of a large bf16 matrix product on the same card in the same run. `times official`
compares with the official pattern in the same precision, `in fp16` with it in fp16, which is how
the script runs its UNet on ImageNet. `memory` is the most that PyTorch's tensors took, weights
included, and the second table its line by slots. A way that ran out of memory says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As `python benchmarks/gpu.py`, Python looks for modules in benchmarks/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.device_rates import bandwidth, matrix_rate
from benchmarks.gpu_ways import (
    EngineWay,
    OfficialWay,
    flops_of_step,
    peak_memory,
    seconds_of_conditions,
    weight_bytes,
)
from benchmarks.random_networks import kind_of, prepared, random_models
from benchmarks.table import machine, print_table
from dstc_engine.compiled import MODES
from dstc_engine.fit_slots import SHARE, MemoryLine
from dstc_engine.graphs import made_for_steps
from dstc_engine.presets import PRESETS, get_preset

_GIB = 2**30
_OUT_OF_MEMORY = "out of memory"


def measure(
    name: str, precision: str, arguments: argparse.Namespace, matrix: float
) -> list[dict[str, Any]]:
    """One record for each way of a preset in a precision.

    Args:
        matrix: FLOP per second of the bf16 matrix product.
    """
    preset = get_preset(name)
    kind = kind_of(preset)
    preset = prepared(preset, kind, arguments.shrink)
    models = random_models(preset, arguments.device, precision, arguments.shrink)
    conditions = seconds_of_conditions(models, preset, kind)
    flops = flops_of_step(models, preset, kind) * preset.guided_steps
    common = {"preset": name, "precision": precision, "weights": weight_bytes(models)}
    records: list[dict[str, Any]] = []
    running: list[tuple[dict[str, Any], EngineWay | OfficialWay]] = []

    def start(how: str, slots: int, way: EngineWay | OfficialWay) -> None:
        """Warms a way up, and notes the memory that it takes."""
        record = common | {"way": how, "slots": slots}
        records.append(record)
        try:
            record["memory"] = peak_memory(way.models, lambda: way.run(1))
        except torch.OutOfMemoryError:
            record["error"] = _OUT_OF_MEMORY
            _free(arguments.device)
        else:
            running.append((record, way))
        _tell(f"{name} {precision}, {how}, {slots} slots: ready")

    start("official pattern", 1, OfficialWay(models, preset, kind))
    for slots in arguments.slots:
        start("engine", slots, EngineWay(models, preset, slots, kind))
    for slots in arguments.slots:
        # Graphs are those of one table; compiled code is made for each shape anyway.
        if made := made_for_steps(models, arguments.compile):
            start("engine, compiled", slots, EngineWay(models, preset, slots, kind, made))
    for _, way in running:
        _forget_warm_up(way)
    for number in range(arguments.rounds):
        for record, way in running:
            try:
                way.run(arguments.steps)
            except torch.OutOfMemoryError:
                record["error"] = _OUT_OF_MEMORY
                _free(arguments.device)
        _tell(f"{name} {precision}: round {number}")
    for record, way in running:
        if "error" not in record:
            image = (
                way.seconds_per_image()
                if isinstance(way, OfficialWay)
                else way.seconds_per_image(conditions)
            )
            record |= {
                "seconds_per_image": image,
                "images_per_second": 1 / image,
                "tflops": flops / image / 1e12,
                "share": flops / image / matrix,
                "failed_rows": way.failed,
            }
            if isinstance(way, EngineWay):
                record["step_seconds"] = statistics.median(way.seconds)
                record["conditions_seconds"] = conditions
    return records


def _forget_warm_up(way: EngineWay | OfficialWay) -> None:
    way.failed = 0
    if isinstance(way, EngineWay):
        way.seconds.clear()
    else:
        way.open_seconds.clear()
        way.shut_seconds.clear()


def _free(device: str) -> None:
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def compare(records: Sequence[dict[str, Any]]) -> None:
    """Adds to each record how many times as fast as the official pattern it is."""
    official = {
        (record["preset"], record["precision"]): record["seconds_per_image"]
        for record in records
        if record["way"] == "official pattern" and "seconds_per_image" in record
    }
    for record in records:
        for key, precision in (
            ("times_official", record["precision"]),
            ("times_official_fp16", "fp16"),
        ):
            theirs = official.get((record["preset"], precision))
            if theirs is not None and "seconds_per_image" in record:
                record[key] = theirs / record["seconds_per_image"]


def print_speed(records: Sequence[dict[str, Any]], device: str) -> None:
    """One line for each way."""

    def cell(record: dict[str, Any], key: str, form: str, scale: float = 1.0) -> str:
        value = record.get(key)
        return "" if value is None else format(value * scale, form)

    rows = [
        [
            record["preset"],
            record["precision"],
            record["way"],
            record["slots"],
            record.get("error") or cell(record, "images_per_second", ".4f"),
            cell(record, "seconds_per_image", ".2f"),
            cell(record, "times_official", ".2f"),
            cell(record, "times_official_fp16", ".2f"),
            cell(record, "tflops", ".2f"),
            cell(record, "share", ".1%"),
            cell(record, "memory", ".1f", 1 / _GIB),
            cell(record, "failed_rows", "d", 1),
        ]
        for record in records
    ]
    columns = ["preset", "precision", "way", "slots", "images/s", "s an image"]
    columns += ["times official", "in fp16", "TFLOP/s", "of matrix rate", "memory GiB"]
    print_table([*columns, "rows not finite"], rows, device)


def memory_lines(records: Sequence[dict[str, Any]], capacity: int) -> list[dict[str, Any]]:
    """Memory by slots: a fixed part and one for each slot, where two slot counts were measured.

    Args:
        capacity: bytes of the card.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        if record.get("memory") is not None and record["way"] != "official pattern":
            key = record["preset"], record["precision"], record["way"]
            groups.setdefault(key, []).append(record)
    lines = []
    for (preset, precision, way), group in groups.items():
        peaks = {record["slots"]: record["memory"] for record in group}
        if len(peaks) < 2:
            continue
        line = MemoryLine.through(peaks)
        missed = max(abs(line.fixed + line.each * s - p) / p for s, p in peaks.items())
        lines.append(
            {
                "preset": preset,
                "precision": precision,
                "way": way,
                "weights": group[0]["weights"],
                "fixed": line.fixed,
                "per_slot": line.each,
                "worst_miss": missed,
                "slots_that_fit": line.slots_in(SHARE * capacity) if line.each > 0 else None,
            }
        )
    return lines


def print_memory(lines: Sequence[dict[str, Any]], device: str) -> None:
    """The memory model, where there is one."""
    rows = [
        [
            line["preset"],
            line["precision"],
            line["way"],
            f"{line['weights'] / _GIB:.2f}",
            f"{line['fixed'] / _GIB:.2f}",
            f"{line['per_slot'] / _GIB:.3f}",
            f"{line['worst_miss']:.0%}",
            line["slots_that_fit"],
        ]
        for line in lines
    ]
    columns = ["preset", "precision", "way", "weights GiB", "fixed GiB", "GiB a slot"]
    print_table([*columns, "worst miss", "slots that fit"], rows, device)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try it out (cuda)")
    parser.add_argument("--shrink", action="store_true", help="small networks of the same kinds")
    parser.add_argument(
        "--presets",
        nargs="+",
        choices=sorted(name for name in PRESETS if name != "tiny64"),
        default=["imagenet256-text", "imagenet256-image"],
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["fp32", "bf16", "fp16"],
        default=["fp32", "bf16", "fp16"],
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=4, help="of each way in its turn (4)")
    parser.add_argument("--rounds", type=int, default=3, help="turns; medians are over all (3)")
    parser.add_argument(
        "--compile",
        choices=MODES,
        default="default",
        help="mode of torch.compile, CUDA graphs, or no compiled engine (default)",
    )
    parser.add_argument("--json", type=Path, help="where all numbers are written as JSON")
    arguments = parser.parse_args(argv)
    for name in arguments.presets:
        chain, steps = get_preset(name).guided_steps, arguments.steps
        if arguments.rounds * (steps + 1) + 2 >= chain or steps < 1:
            parser.error(f"--steps x --rounds is too long: {name} has {chain} guided steps")
    device = torch.device(arguments.device)
    found: dict[str, Any] = {
        "machine": machine(arguments.device),
        "options": {key: str(value) for key, value in vars(arguments).items()},
        "matrix_flops": {p: matrix_rate(device, p) for p in {*arguments.precisions, "bf16"}},
        "bandwidth": bandwidth(device),
        "ways": [],
    }
    for name in arguments.presets:
        for precision in arguments.precisions:
            found["ways"] += measure(name, precision, arguments, found["matrix_flops"]["bf16"])
            _free(arguments.device)
            compare(found["ways"])
            capacity = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
            found["memory"] = memory_lines(found["ways"], capacity)
            if arguments.json:  # after each: a run that is cut short leaves what it had
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print_speed(found["ways"], arguments.device)
    if found["memory"]:
        print_memory(found["memory"], arguments.device)
    rates = ", ".join(f"{p} {r / 1e12:.3g}" for p, r in sorted(found["matrix_flops"].items()))
    print(f"\nMatrix rate, TFLOP/s: {rates}; memory {found['bandwidth'] / 1e9:.0f} GB/s.")


if __name__ == "__main__":
    main()
