"""Where the time of an image goes: seconds, multiply-adds and bytes of each network and phase.

    python -m benchmarks.profile_step
    python -m benchmarks.profile_step --preset imagenet256-image --random-weights
    python -m benchmarks.profile_step --preset imagenet256-text --random-weights --shrink

Guided steps of the real engine, all slots busy, some rows guided by text and some by an image
(full-size presets: the rows they are made for). `benchmarks/phases.py` says what belongs to a
phase, `dstc_engine/kernel_counts.py` how operations and bytes are counted. Three tables:

- the time of a step by phase, with the rate reached and its share of the matrix rate that the same
  device and precision reach in this run;
- the roofline: bytes of all kernels and of the products alone, FLOP per byte of these, and the
  floor: the longer of the time the FLOP take at the matrix rate and the time the products' bytes
  take at the memory's bandwidth. `times floor` is what is left to gain there;
- what a row costs once, and the image in all: `texts` are prompts that no row had before,
  `conditions` what the networks say of its images.

Phases are measured with a wait for the device at each border; the line under the first table tells
how much longer that makes a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# As `python benchmarks/profile_step.py`, Python looks for modules in benchmarks/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.device_rates import bandwidth, matrix_rate, synchronize
from benchmarks.phases import ONCE_PER_ROW, Phases, watched_noise, watching
from benchmarks.random_networks import kind_of, prepared, random_models, random_rows
from benchmarks.table import print_table
from dstc_engine.engine import Engine, finish_image
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.image import decode, encode_png, fit
from dstc_engine.kernel_counts import Counted, counting
from dstc_engine.models import Models, load_models
from dstc_engine.presets import PRESETS, Preset, get_preset
from dstc_engine.request import TranslationRequest
from dstc_engine.tensors import to_tensor


@dataclasses.dataclass
class Profile:
    """Seconds and operations of a guided step, by phase.

    Attributes:
        phases: of one step, seconds by phase, the median of the steps.
        counted: of one step, by phase.
        step: seconds of a step that nobody watches, the median.
        once: seconds of what a row costs once, by name.
    """

    phases: dict[str, float]
    counted: dict[str, Counted]
    step: float
    once: dict[str, float]


def profile(
    models: Models, preset: Preset, rows: list[TranslationRequest], slots: int, steps: int
) -> Profile:
    """Measures so many guided steps, and as many unwatched ones in turn with them.

    Args:
        rows: enough for all slots. preset: of a chain that does not end within `2 * steps + 2`.
    """
    phases = Phases(models.device)
    engine = Engine(models, preset, slots, make_noise=watched_noise(phases, preset))
    for row in rows[:slots]:
        engine.add(row)
    texts = _seconds_of_texts(models, rows[:slots])
    watched: list[dict[str, float]] = []
    plain: list[float] = []
    with watching(models, preset, phases):
        phases.reset()
        assert not engine.step(), "a row ended in its first step"
        entering = phases.stop()
    engine.step()
    for _ in range(steps):
        with watching(models, preset, phases):
            phases.reset()
            ended = engine.step()
            watched.append(phases.stop())
        started = time.perf_counter()
        ended += engine.step()
        synchronize(models.device)
        plain.append(time.perf_counter() - started)
        assert not ended, "a row ended while steps were measured"
    with watching(models, preset, phases), counting(lambda: phases.now) as counted:
        engine.step()
    names = sorted({name for found in watched for name in found} - set(ONCE_PER_ROW))
    return Profile(
        phases={n: statistics.median(found.get(n, 0.0) for found in watched) for n in names},
        counted=counted,
        step=statistics.median(plain),
        once={
            "texts": texts,
            "conditions": entering["conditions"] / slots,
            **_images(preset, rows[0]),
        },
    )


def _seconds_of_texts(models: Models, rows: list[TranslationRequest]) -> float:
    """To embed what no row before has asked for, over all these rows; remembered from then on."""
    started = time.perf_counter()
    for row in rows:
        for text in filter(None, (row.prompt, row.source_prompt)):
            for clip in models.clips:
                models.embed_text(clip, text)
    synchronize(models.device)
    return (time.perf_counter() - started) / len(rows)


def _images(preset: Preset, row: TranslationRequest) -> dict[str, float]:
    """Seconds to unpack and fit the content, and to finish and pack the result, on the CPU."""
    size = preset.image_size
    packed = encode_png(row.content)
    small = fit(row.content, size, preset.fit)
    x0 = to_tensor(small)

    def median(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    return {
        "decode": median(lambda: decode(packed)),
        "fit": median(lambda: to_tensor(fit(row.content, size, preset.fit))),
        "finish": median(lambda: finish_image(x0, row, preset)),
        "encode": median(lambda: encode_png(small, {"id": row.id})),
    }


def print_profile(
    found: Profile, preset: Preset, slots: int, rate: float, bytes_per_second: float, device: str
) -> None:
    """The three tables.

    Args:
        rate: FLOP per second of the matrix product, and `bytes_per_second` of the memory.
    """
    total = sum(found.phases.values())
    time_rows, roof_rows = [], []
    by_time = sorted(found.phases, key=lambda name: -found.phases[name])
    sums = Counted()
    least = 0.0
    all_flops = sum(did.flops for did in found.counted.values())
    for name in by_time:
        seconds, did = found.phases[name], found.counted.get(name, Counted())
        reached = did.flops / seconds if seconds else 0.0
        # A rate says nothing of phases whose few products are beside the point.
        has_rate = did.flops > 1e-3 * all_flops
        time_rows.append(
            [
                name,
                f"{1e3 * seconds / slots:.2f}",
                f"{seconds / total:.1%}",
                f"{did.flops / 2e9 / slots:.3f}",
                f"{reached / 1e9:.0f}" if has_rate else "",
                f"{reached / rate:.0%}" if has_rate else "",
            ]
        )
        floor = max(did.flops / rate, did.product_bytes / bytes_per_second)
        least += floor
        sums.flops += did.flops
        sums.product_bytes += did.product_bytes
        sums.all_bytes += did.all_bytes
        if has_rate:
            roof_rows.append(_roof_row(name, did, floor, seconds, slots))
    reached = sums.flops / total
    whole = ["all", f"{1e3 * total / slots:.2f}", "100.0%", f"{sums.flops / 2e9 / slots:.3f}"]
    time_rows.append([*whole, f"{reached / 1e9:.0f}", f"{reached / rate:.0%}"])
    columns = [f"step of {preset.name}, {slots} slots", "ms a row", "share"]
    columns += ["G multiply-adds a row", "GFLOP/s", "of matrix rate"]
    print_table(columns, time_rows, device)
    print(
        f"\nUnwatched, a step takes {1e3 * found.step / slots:.2f} ms a row, "
        f"{found.step / total:.1%} of that. Matrix rate {rate / 1e9:,.0f} GFLOP/s, memory "
        f"{bytes_per_second / 1e9:.1f} GB/s: the ridge lies at {rate / bytes_per_second:.0f} "
        "FLOP/byte."
    )
    roof_rows.append(_roof_row("all", sums, least, total, slots))
    columns = ["roofline", "MB a row", "of products", "FLOP/byte", "floor ms", "times floor"]
    print_table(columns, roof_rows, device)
    _print_image(found, preset, slots, device)


def _roof_row(name: str, did: Counted, floor: float, seconds: float, slots: int) -> list[str]:
    return [
        name,
        f"{did.all_bytes / 1e6 / slots:.1f}",
        f"{did.product_bytes / 1e6 / slots:.1f}",
        f"{did.flops / did.product_bytes:.0f}",
        f"{1e3 * floor / slots:.2f}",
        f"{seconds / floor:.1f}",
    ]


def _print_image(found: Profile, preset: Preset, slots: int, device: str) -> None:
    steps = preset.guided_steps * found.step / slots
    once = {"guided steps": steps, **found.once}
    whole = sum(once.values())
    rows = [[name, f"{1e3 * s:.2f}", f"{s / whole:.2%}"] for name, s in once.items()]
    rows.append(["all", f"{1e3 * whole:.2f}", "100.00%"])
    print_table([f"an image, {preset.guided_steps} steps", "ms", "share"], rows, device)


def demo_rows(count: int) -> list[TranslationRequest]:
    """Rows of the demo manifest, text, image and both in turn."""
    # Needs pyarrow, which full-size networks with random weights do without.
    from benchmarks.ways import mixed_rows

    return mixed_rows(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny64-variance", choices=sorted(PRESETS))
    parser.add_argument("--random-weights", action="store_true", help="instead of trained ones")
    parser.add_argument("--shrink", action="store_true", help="small networks of the same kinds")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16", "fp16"])
    parser.add_argument("--slots", type=int, default=8, help="rows at a time (8)")
    parser.add_argument("--steps", type=int, default=5, help="medians are over these (5)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, as an actor has (1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, slots = torch.device(arguments.device), arguments.slots
    preset = get_preset(arguments.preset)
    rows: list[TranslationRequest]
    if arguments.random_weights or arguments.shrink:
        kind = kind_of(preset)
        preset = prepared(preset, kind, arguments.shrink)
        models = random_models(preset, arguments.device, arguments.precision, arguments.shrink)
        rows = random_rows(kind, slots, preset.image_size)
    else:
        preset = dataclasses.replace(preset, max_restarts=0)
        models = load_models(preset, arguments.device, arguments.precision)
        rows = demo_rows(slots)
    models.features = FeatureCache(0)  # each row of a job may have images of its own
    if 2 * arguments.steps + 3 >= preset.guided_steps:
        parser.error(f"--steps is {arguments.steps}; a chain has {preset.guided_steps} steps")
    rate, bytes_per_second = matrix_rate(device, arguments.precision), bandwidth(device)
    found = profile(models, preset, rows, slots, arguments.steps)
    print(f"{arguments.precision}, {arguments.threads} thread(s)")
    print_profile(found, preset, slots, rate, bytes_per_second, arguments.device)


if __name__ == "__main__":
    main()
