"""The engine against the authors' evaluation pattern: images per second on the CPU, tiny64.

    python -m benchmarks.engine_speed
    python -m benchmarks.engine_speed --quick
    python -m benchmarks.engine_speed --occupancy

First each way alone with one thread: the official pattern (`benchmarks/official_pattern.py`) and
the engine with 1 to 16 slots, in fp32 and bf16, whole chains of the same rows, guided by text, an
image and both in turn. Ways take turns after every few rows, so that noise of a shared machine
falls on all of them. `times official` compares with the official pattern in fp32 by the clock, `by
CPU` by the CPU time of the process, which neighbors on the machine disturb less. `PSNR` is to its
images, the lowest of all rows, in dB. A line tells how many multiply-adds both spend on the same
images. The spherical step makes other images in fewer steps: `tiny64.quality.compare` has their
quality. Then the whole machine (`benchmarks/whole_machine.py`).

`--occupancy` instead tells how full the slots of the engine are where rows restart, and so are of
unequal length (`benchmarks/real_occupancy.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.real_occupancy import print_occupancy
from benchmarks.table import print_table
from benchmarks.ways import SPHERICAL_STEP, Way, mixed_rows
from benchmarks.whole_machine import print_whole_machine
from dstc_engine.kernel_counts import counting
from dstc_engine.metrics.pixels import psnr
from dstc_engine.precision import PRECISIONS
from dstc_engine.request import ImageArray, TranslationRequest


@dataclass
class Measured:
    """What a way took, seconds of each round, and its images."""

    way: Way
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    images: dict[str, ImageArray] = field(default_factory=dict)

    def run(self, rows: Sequence[TranslationRequest]) -> None:
        """Some rows of the present round."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.images |= self.way.translate(rows)
        self.wall[-1] += time.perf_counter() - wall
        self.cpu[-1] += time.process_time() - cpu

    def start_round(self) -> None:
        self.wall.append(0.0)
        self.cpu.append(0.0)


def take_turns(measured: Sequence[Measured], rows: Sequence[TranslationRequest]) -> None:
    """One round: all rows each way, as many at a time as it has slots, all ways equally far."""
    turns = []
    for place, one in enumerate(measured):
        one.start_round()
        step = max(1, one.way.slots)
        for start in range(0, len(rows), step):
            turns.append((start + step / 2, place, rows[start : start + step]))
    for _, place, piece in sorted(turns, key=lambda turn: turn[:2]):
        measured[place].run(piece)


def print_speed(arguments: argparse.Namespace) -> None:
    """Measures each way with one thread, and prints the table."""
    torch.set_num_threads(1)
    rows = mixed_rows(arguments.rows)
    ways = []
    for precision in arguments.precisions:
        ways += [Way(precision, slots) for slots in (0, *arguments.slots)]
        ways.append(Way(precision, max(arguments.slots), SPHERICAL_STEP))
    measured = [Measured(way) for way in ways]
    for way in ways:
        way.warm_up(rows)
    for number in range(arguments.rounds):
        take_turns(measured, rows)
        speeds = ", ".join(f"{one.wall[-1] / len(rows):.2f}" for one in measured)
        print(f"round {number}: seconds per image {speeds}", file=sys.stderr, flush=True)
    official = measured[0]
    table = []
    for one in measured:
        by_clock = [a / b for a, b in zip(official.wall, one.wall, strict=True)]
        by_cpu = [a / b for a, b in zip(official.cpu, one.cpu, strict=True)]
        lowest = ""
        if one.way.has_official_step:
            decibels = (psnr(one.images[row.id], official.images[row.id]) for row in rows)
            lowest = f"{min(decibels):.1f}"
        table.append(
            [
                one.way.name,
                one.way.precision,
                f"{len(rows) / statistics.median(one.wall):.3f}",
                f"{statistics.median(by_clock):.2f}",
                f"{statistics.median(by_cpu):.2f}",
                lowest,
            ]
        )
    columns = ["one thread", "precision", "images/s", "times official", "by CPU", "PSNR"]
    print_table(columns, table)


def print_work() -> None:
    """Counts the operations of whole chains, one row of each kind, both ways."""
    rows = mixed_rows(3)
    work = []
    for way in (Way("fp32", 0), Way("fp32", len(rows))):
        with counting() as counted:
            way.translate(rows)
        work.append(counted["all"].flops / 2e9 / len(rows))
    official, engine = work
    print(
        f"\nAn image takes {official:.0f} G multiply-adds in the official pattern, "
        f"{engine:.0f} in the engine: {official / engine:.2f} times as many."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16, help="whole waves of all slots (16)")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3, help="medians are over these (3)")
    parser.add_argument("--machine-slots", type=int, default=8, help="of each process (8)")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32", "bf16"],
        help="fp32 first; a CPU without bf16 instructions takes minutes for a row in bf16",
    )
    parser.add_argument("--part", choices=("one-thread", "whole-machine"), help="only this (both)")
    parser.add_argument(
        "--quick", action="store_true", help="6 rows, 1 and 6 slots, one round, one thread"
    )
    parser.add_argument("--occupancy", action="store_true", help="how full slots are, instead")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.slots, arguments.rounds = 6, [1, 6], 1
        arguments.part = "one-thread"
    uneven = [slots for slots in arguments.slots if arguments.rows % slots]
    if uneven:
        # The last wave would leave slots empty, and tell of the tail instead of the engine.
        parser.error(f"--rows is {arguments.rows}; expected a multiple of all slots, not {uneven}")
    if arguments.occupancy:
        print_occupancy(arguments.quick)
        return
    if arguments.part != "whole-machine":
        print_speed(arguments)
        print_work()
    if arguments.part != "one-thread":
        print_whole_machine(
            arguments.rows, arguments.machine_slots, arguments.rounds, arguments.precisions
        )


if __name__ == "__main__":
    main()
