"""How full the slots of the real engine are when rows are of unequal length.

Called by `benchmarks/engine_speed.py --occupancy`. The tiny networks, with a range limit that some
of the demo's rows exceed: they restart, up to three times, and take up to twice as many steps as
their neighbours. Shards of twice as many rows as slots, two at a time, are handed to the job's
engine thread as its actors do. (`benchmarks/occupancy.py` compares other sizes of shards.)

The tail are the steps after the last row of all has entered a slot; a job of many shards has one.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.table import print_table
from benchmarks.ways import mixed_rows, tiny_models
from dstc.worker.engine_thread import EngineThread
from dstc_engine.engine import Engine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation

# About the median, over the demo's rows, of the highest range loss of a chain times its weight.
_LIMIT = 0.1
_PRESET = dataclasses.replace(TINY64, range_restart=True, range_restart_limit=_LIMIT)
_SHARDS_AT_ONCE = 2


def measure(slots: int, count: int) -> tuple[list[Translation], list[int], list[int]]:
    """Translates so many rows: how they ended, busy slots of each step before and in the tail."""
    rows = mixed_rows(count)
    of_shard = 2 * slots
    shards = iter([(n, rows[n : n + of_shard]) for n in range(0, count, of_shard)])
    entered = itertools.count(1)
    last_entered = threading.Event()
    before: list[int] = []
    tail: list[int] = []

    def on_start() -> None:
        if next(entered) == count:
            last_entered.set()

    def on_step(seconds: float, busy: int, slots: int) -> None:
        (tail if last_entered.is_set() else before).append(busy)

    def make_engine(slots: int) -> Engine:
        return Engine(tiny_models("bf16"), _PRESET, slots)

    thread = EngineThread(make_engine, slots, on_step)
    lock = threading.Lock()

    def work_off() -> list[Translation]:
        ended: list[Translation] = []
        while True:
            with lock:
                order, shard = next(shards, (count, []))
            if not shard:
                return ended
            futures = [thread.submit(row, order, on_start=on_start) for row in shard]
            ended += [future.result() for future in futures]

    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        calls = [pool.submit(work_off) for _ in range(_SHARDS_AT_ONCE)]
        ended = [translation for call in calls for translation in call.result()]
    thread.close()
    assert len(ended) == count and all(row.status == "done" for row in ended)
    assert sum(row.steps for row in ended) == sum(before) + sum(tail), "a step is not accounted for"
    return ended, before, tail


def print_occupancy(quick: bool) -> None:
    """Measures, and prints one table."""
    torch.set_num_threads(1)
    table = []
    for slots, count in [(3, 12)] if quick else [(4, 48), (8, 48)]:
        ended, before, tail = measure(slots, count)
        steps = [row.steps for row in ended]
        table.append(
            [
                slots,
                count,
                sum(row.restarts > 0 for row in ended),
                f"{min(steps)} / {statistics.median(steps):.0f} / {max(steps)}",
                len(before),
                f"{sum(before) / (slots * len(before)):.1%}",
                len(tail),
                f"{sum(before + tail) / (slots * len(before + tail)):.1%}",
            ]
        )
    columns = ["slots", "rows", "restarted", "steps, least / median / most"]
    print_table([*columns, "steps before tail", "busy", "in tail", "busy over all"], table)
