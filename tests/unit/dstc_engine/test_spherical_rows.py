"""Whole rows with the spherical step: alone and among others, masks, samples, restarts, gaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from torch import Tensor

from dstc_engine.diffusion.sampling import posterior_mean
from dstc_engine.engine import Engine
from dstc_engine.models import Models
from tests.unit.dstc_engine.tiny import (
    KINDS,
    PRESET,
    STEPS,
    assert_same,
    half_mask,
    request,
    run,
    trace,
)

SPHERICAL = dataclasses.replace(PRESET, guidance_step="spherical")


@pytest.mark.parametrize("step", ["variance", "spherical"])
def test_the_variance_of_a_step_changes_images(step: str, models: Models) -> None:
    learned = dataclasses.replace(PRESET, guidance_step=step)
    least = dataclasses.replace(learned, step_variance="posterior")
    for kind in KINDS:
        ended, other = (run(models, [request(kind, 1)], p)[f"{kind}-1"] for p in (learned, least))
        assert (ended.status, other.status) == ("done", "done")
        assert repr(ended.losses[0]) == repr(other.losses[0]), "the first comes before any step"
        assert trace(ended) != trace(other)


@pytest.mark.parametrize("turn", range(3))
def test_rows_are_the_same_alone_and_among_others(turn: int, models: Models) -> None:
    together = run(models, [request(KINDS[(at + turn) % 3], 1) for at in range(3)], SPHERICAL)
    for kind in KINDS:
        alone = run(models, [request(kind, 1)], SPHERICAL)[f"{kind}-1"]
        assert_same(together[f"{kind}-1"], alone)


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 3},
        {"guidance_every": 2},
        {"guidance_every": 3, "guidance_lowest": 1},
        {"guidance_space": "x0"},
        {"noise_mix": False},
        {"guidance_rate": 0.0},
        {"guidance_rate": 1.0},
        {"step_variance": "posterior"},
        {"range_restart": True, "range_restart_limit": 0.0, "max_restarts": 2},
    ],
)
def test_whole_images(changes: dict[str, object], models: Models) -> None:
    preset = dataclasses.replace(SPHERICAL, **changes)  # type: ignore[arg-type]
    plain = dataclasses.replace(preset, guidance_step="variance")
    for kind in KINDS:
        ended, other = (run(models, [request(kind, 1)], p)[f"{kind}-1"] for p in (preset, plain))
        restarts = preset.max_restarts if preset.range_restart else 0
        assert (ended.status, ended.restarts) == ("done", restarts)
        assert (ended.steps, len(ended.losses)) == (other.steps, len(other.losses))
        assert trace(ended) != trace(other)


def test_only_the_ratios_of_weights_count(models: Models) -> None:
    heavy = {f: 2 * v for f, v in vars(SPHERICAL).items() if f.startswith("weight_")}
    for kind in KINDS:
        light_row, heavy_row = (
            run(models, [request(kind, 1)], preset)[f"{kind}-1"]
            for preset in (SPHERICAL, dataclasses.replace(SPHERICAL, **heavy))
        )
        assert np.array_equal(light_row.image, heavy_row.image)  # type: ignore[arg-type]


def test_a_mask_keeps_what_is_outside(models: Models) -> None:
    row = request("image", 1, mask=half_mask())
    ended = run(models, [row], SPHERICAL)[row.id]
    assert ended.image is not None
    outside = half_mask() == 0
    assert np.array_equal(ended.image[outside], row.content[outside])
    assert (ended.image[~outside] != row.content[~outside]).mean() > 0.5


def test_samples_of_a_row_differ(models: Models) -> None:
    rows = [dataclasses.replace(request("both", 1), id=f"sample-{n}", seed=n) for n in range(3)]
    images = [ended.image for ended in run(models, rows, SPHERICAL).values()]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (images[first] != images[second]).mean() > 0.2  # type: ignore[operator]


def test_steps_end_on_the_sphere(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    means: list[Tensor] = []
    steps: list[Tensor] = []

    def seen(x0: Tensor, x: Tensor, table: object) -> Tensor:
        means.append(posterior_mean(x0, x, table))  # type: ignore[arg-type]
        return means[-1]

    monkeypatch.setattr("dstc_engine.diffusion.sampling.posterior_mean", seen)
    engine = Engine(models, SPHERICAL, 1, watch=lambda x, _: steps.append(x))
    engine.add(request("image", 1))
    while not engine.is_finished:
        engine.step()
    lengths = [float((x - mean).norm()) for x, mean in zip(steps, means, strict=True)]
    assert len(lengths) == STEPS and lengths[-1] == 0
    # The deviation falls along the chain, and with it the length of a step.
    assert lengths[1:] == sorted(lengths[1:], reverse=True)
