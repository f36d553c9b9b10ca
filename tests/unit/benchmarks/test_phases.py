"""Phases add up to the step, and each network's work is found under its name."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

import dstc_engine.engine
import dstc_engine.guidance.guide
from benchmarks.phases import Phases, networks_of, watched_noise, watching
from benchmarks.profile_step import main, profile
from dstc_engine.engine import Engine
from dstc_engine.kernel_counts import counting
from dstc_engine.models import Models
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import PRESET, request, run

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models() -> Models:
    return tiny.make_models()


def test_time_goes_to_the_phase_that_runs() -> None:
    phases = Phases(CPU)
    phases.reset()
    with phases.inside("outer"):
        time.sleep(0.02)
        with phases.inside("inner"):
            time.sleep(0.03)
        time.sleep(0.02)
    with phases.inside("sealed", sealed=True):
        phases.switch("not seen")
        with phases.inside("not seen either"):
            time.sleep(0.01)
    found = phases.stop()
    assert set(found) == {"bookkeeping", "outer", "inner", "sealed"}
    assert 0.04 <= found["outer"] and 0.03 <= found["inner"] and 0.01 <= found["sealed"]


def test_an_error_leaves_the_phase() -> None:
    phases = Phases(CPU)
    for sealed in (False, True):
        with pytest.raises(ValueError), phases.inside("broken", sealed):
            raise ValueError
        assert phases.now == "bookkeeping"
    phases.switch("works")
    assert phases.now == "works"


def test_every_part_of_a_step_is_found(models: Models) -> None:
    phases = Phases(CPU)
    engine = Engine(models, PRESET, 2, make_noise=watched_noise(phases, PRESET))
    engine.add(request("both", 1))
    engine.add(request("text", 2))
    with watching(models, PRESET, phases):
        phases.reset()
        started = time.perf_counter()
        engine.step()
        found = phases.stop()
        seconds = time.perf_counter() - started
    assert sum(found.values()) == pytest.approx(seconds, abs=0.01)
    assert set(found) == {
        *(f"{name} {way}" for name in ("UNet", "DINO", "tiny") for way in ("forward", "backward")),
        *("crops", "losses", "arithmetic", "noise", "bookkeeping", "conditions"),
    }


def test_operations_are_found_under_the_network_that_does_them(models: Models) -> None:
    # A backward phase that ended too late or too early would hold another's products.
    phases = Phases(CPU)
    engine = Engine(models, PRESET, 1)
    engine.add(request("both", 1))
    engine.step()
    with watching(models, PRESET, phases), counting(lambda: phases.now) as counted:
        engine.step()
    for name, network in networks_of(models, PRESET).items():
        size = {"UNet": 16, "DINO": 16, "tiny": models.clips[0].size}[name]
        batch = PRESET.crops if name == "tiny" else 1
        shown = torch.zeros(batch, 3, size, size)
        shown.requires_grad_()  # without, PyTorch has another attention that nobody counts
        with counting() as alone, torch.enable_grad():
            network(shown, torch.zeros(1)) if name == "UNet" else network(shown)
        forward, backward = counted[f"{name} forward"], counted[f"{name} backward"]
        assert forward.flops == alone["all"].flops > 0
        # No weight has a gradient, so a way back is about as long; attention has more products.
        assert 0.8 * forward.flops < backward.flops < 1.7 * forward.flops
    assert counted["losses"].flops > 0 and counted["arithmetic"].flops == 0


def test_nothing_is_left_behind_and_images_stay(models: Models) -> None:
    before = (
        dict(vars(dstc_engine.engine)),
        dict(vars(dstc_engine.guidance.guide)),
        torch.autograd.grad,
    )
    expected = run(models, [request("both", 1)], PRESET, slots=1)["both-1"]
    phases = Phases(CPU)
    with watching(models, PRESET, phases):
        watched = run(models, [request("both", 1)], PRESET, slots=1)["both-1"]
    tiny.assert_same(watched, expected)
    after = (
        dict(vars(dstc_engine.engine)),
        dict(vars(dstc_engine.guidance.guide)),
        torch.autograd.grad,
    )
    assert before == after
    for network in networks_of(models, PRESET).values():
        assert not network._forward_hooks and not network._forward_pre_hooks


def test_a_profile_is_of_a_step_and_of_a_row(models: Models) -> None:
    found = profile(models, PRESET, [request("text", 1), request("image", 2)], slots=2, steps=1)
    assert found.step > 0 and found.phases["UNet forward"] > 0
    assert "conditions" not in found.phases and found.once["conditions"] > 0
    assert found.counted["UNet forward"].flops > 0
    assert set(found.once) == {"texts", "conditions", "decode", "fit", "finish", "encode"}


def test_it_ends_in_three_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--preset imagenet256-image --shrink --slots 1 --steps 1 --precision bf16"
    monkeypatch.setattr("sys.argv", ["profile_step", *options.split()])
    main()
    printed = capsys.readouterr().out
    assert [printed.count(f"| {column} |") for column in ("of matrix rate", "times floor")] == [
        1,
        1,
    ]
    for name in ("UNet backward", "DINO forward", "bookkeeping", "conditions", "guided steps"):
        assert f" {name} |" in printed
    assert "129 steps" in printed and "rn50" not in printed  # image rows load no CLIP


def test_a_chain_that_is_too_short_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["profile_step", "--steps", "40", "--slots", "1"])
    with pytest.raises(SystemExit):
        main()
    assert "--steps is 40; a chain has 24 steps" in capsys.readouterr().err
