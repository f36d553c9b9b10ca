"""The GPU benchmark on a CPU, at shrunken sizes: the same code, but for the memory of the card."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_ways
from benchmarks.gpu_ways import (
    EngineWay,
    OfficialWay,
    steps_by_gate,
    weight_bytes,
)
from benchmarks.random_networks import prepared, random_models
from dstc_engine.models import Models
from dstc_engine.presets import IMAGENET256_IMAGE, IMAGENET256_TEXT, Preset

ROOT = Path(__file__).resolve().parents[3]
_RUN = """
import runpy, sys
for name in ("ray", "jobs", "pyarrow", "fsspec", "s3fs", "pandas", "typer", "pydantic"):
    sys.modules[name] = None  # importing it raises
sys.argv = sys.argv[1:]
sys.path[0] = "benchmarks"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def preset() -> Preset:
    return prepared(IMAGENET256_TEXT, "text", shrink=True)


@pytest.fixture(scope="module")
def models(preset: Preset) -> Models:
    return random_models(preset, shrink=True)


def test_it_runs_as_a_script_without_ray_and_the_job(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    options = "--device cpu --shrink --presets imagenet256-image --precisions fp32 --slots 1 2"
    options += f" --steps 1 --rounds 1 --compile no --json {file}"
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, "benchmarks/gpu.py", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(file.read_text())
    official, one, two = found["ways"]
    assert [(w["way"], w["slots"]) for w in found["ways"]] == [
        ("official pattern", 1),
        ("engine", 1),
        ("engine", 2),
    ]
    for way in found["ways"]:
        assert way["failed_rows"] == 0 and way["memory"] is None and way["weights"] > 1e6
        ratio = official["seconds_per_image"] / way["seconds_per_image"]
        assert way["times_official"] == pytest.approx(ratio)
        assert way["share"] == pytest.approx(way["tflops"] * 1e12 / found["matrix_flops"]["bf16"])
        assert "times_official_fp16" not in way  # it was not measured
    assert two["seconds_per_image"] == pytest.approx(
        129 * two["step_seconds"] / 2 + two["conditions_seconds"]
    )
    assert one["tflops"] * one["seconds_per_image"] == pytest.approx(
        two["tflops"] * two["seconds_per_image"]
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("| imagenet256-image")]
    assert len(lines) == 3
    assert "GiB a slot" not in ended.stdout


def test_an_image_costs_its_chain_and_its_conditions(preset: Preset, models: Models) -> None:
    way = EngineWay(models, preset, 2, "text")
    way.run(1)
    assert len(way.seconds) == 1
    way.seconds = [0.2, 0.4, 9.0]
    assert way.seconds_per_image(0.5) == pytest.approx(69 * 0.4 / 2 + 0.5)


def test_the_official_pattern_is_measured_with_the_gate_open_and_shut() -> None:
    preset = prepared(IMAGENET256_IMAGE, "image", shrink=True)
    models = random_models(preset, shrink=True)
    looks: list[int] = []
    assert models.dino is not None
    models.dino.register_forward_hook(lambda *_: looks.append(1))
    way = OfficialWay(models, preset, "image")
    way.run(2)
    # Chains of 1 and 2 steps, each gate: 8 looks a step with the divergence, 6 without.
    assert len(looks) == 3 * 8 + 3 * 6
    assert len(way.open_seconds) == len(way.shut_seconds) == 1
    way.open_seconds, way.shut_seconds = [2.0], [1.0]
    assert way.seconds_per_image() == 28 * 2.0 + 101 * 1.0


def test_steps_by_gate_are_those_of_the_chain() -> None:
    # Image: indices 119 .. 0, the first ten times, open above 100; text: 59 .. 0, above 50.
    assert steps_by_gate(IMAGENET256_IMAGE) == (10 + 18, 101)
    assert steps_by_gate(IMAGENET256_TEXT) == (10 + 8, 51)


def test_weights_are_counted_once_and_half_ones_take_less(preset: Preset, models: Models) -> None:
    half = random_models(preset, "cpu", "bf16", shrink=True)
    assert 0.5 * weight_bytes(models) < weight_bytes(half) < 0.95 * weight_bytes(models)
    twice = Models(models.unet, models.dino, (models.clips[0], models.clips[0]))
    once = Models(models.unet, models.dino, models.clips[:1])
    assert weight_bytes(twice) == weight_bytes(once)


def way(how: str, slots: int, **fields: Any) -> dict[str, Any]:
    common = {"preset": "p", "precision": "bf16", "weights": 2**30}
    return common | {"way": how, "slots": slots} | fields


def test_lines_of_memory_need_two_slot_counts_of_one_way() -> None:
    records = [
        way("official pattern", 1, memory=7),
        way("engine", 1, memory=3 * 2**30),
        way("engine", 2, memory=4 * 2**30),
        way("engine", 4, error="out of memory"),
        way("engine, compiled", 1, memory=2**30),
    ]
    (line,) = gpu.memory_lines(records, capacity=10 * 2**30)
    assert (line["way"], line["fixed"], line["per_slot"]) == pytest.approx(
        ("engine", 2 * 2**30, 2**30)
    )
    assert line["slots_that_fit"] == 7  # nine tenths of ten GiB, less two


def test_memory_that_ends_is_told_and_the_others_go_on(
    models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hungry(EngineWay):
        warm = False

        def step(self) -> float:
            # Two slots end at once, three in their turn after the warm-up.
            if self.slots == 2 or (self.slots == 3 and self.warm and not self.seconds):
                raise torch.OutOfMemoryError("no more")
            self.warm = True
            return 1.0

    class Steady(OfficialWay):
        def run(self, steps: int) -> None:
            self.open_seconds.append(2.0)
            self.shut_seconds.append(1.0)

    monkeypatch.setattr(gpu, "EngineWay", Hungry)
    monkeypatch.setattr(gpu, "OfficialWay", Steady)
    for name, value in (
        ("random_models", models),
        ("matrix_rate", 1e12),
        ("bandwidth", 1e9),
        ("seconds_of_conditions", 0.0),
        ("flops_of_step", 10**9),
    ):
        monkeypatch.setattr(gpu, name, lambda *given, value=value: value)
    options = "--device cpu --shrink --presets imagenet256-image --precisions fp16 --slots 1 2 3"
    gpu.main([*options.split(), "--steps", "1", "--rounds", "1", "--compile", "no"])
    printed = capsys.readouterr().out
    cells = [[c.strip() for c in line.split("|")] for line in printed.splitlines()]
    ways = {(row[3], row[4]): row[5:] for row in cells if len(row) > 6}
    assert ways["engine", "2"][0] == ways["engine", "3"][0] == "out of memory"
    # 129 steps of a second, against 28 of two and 101 of one.
    assert ways["engine", "1"][1] == "129.00"
    assert ways["official pattern", "1"][1:4] == ["157.00", "1.00", "1.00"]
    assert ways["engine", "1"][2:6] == ["1.22", "1.22", "0.00", "0.1%"]


def test_a_measurement_longer_than_the_chain_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--steps", "30", "--rounds", "3"])
    assert "imagenet256-text has 69 guided steps" in capsys.readouterr().err


def test_rows_that_fail_are_replaced_and_counted(preset: Preset, models: Models) -> None:
    failing = gpu_ways.EngineWay(models, preset, 2, "text")
    failing.run(1)
    failing._engine._x[0] = float("nan")
    failing.step()
    assert failing.failed == 1 and failing._engine.free_slots == 1
    failing.step()
    assert failing.failed == 1 and failing._engine.free_slots == 0
