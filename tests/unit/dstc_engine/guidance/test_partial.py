"""Chains that leave guidance out of steps, or its way back through the prior."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from dstc_engine.diffusion.sampling import ChainTables, read_denoiser
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.engine import Engine
from dstc_engine.errors import PresetError
from dstc_engine.guidance.conditions import encode_conditions
from dstc_engine.guidance.guide import guide
from dstc_engine.guidance.partial import StepRows, guide_some
from dstc_engine.losses import WEIGHTED
from dstc_engine.models import Models
from dstc_engine.noise import RowNoise
from dstc_engine.presets import IMAGENET256_IMAGE, TINY64, Preset
from dstc_engine.slots import Slot
from tests.unit.dstc_engine.tiny import (
    CROPS,
    KINDS,
    PRESET,
    SIZE,
    STEPS,
    assert_same,
    request,
    run,
)

# First index 4, twice: guided at 4, 4, 2, 0.
EVERY_OTHER = dataclasses.replace(PRESET, guidance_every=2)


def step_of(models: Models, indices: list[int]) -> StepRows:
    """Rows of each kind in turn, at these indices."""
    rows = [request(KINDS[n % 3], n) for n in range(len(indices))]
    noises = [RowNoise(row.seed, SIZE, CROPS) for row in rows]
    encoded = [encode_conditions(models, PRESET, row)[0] for row in rows]
    to = encoded[0].empty(len(rows))
    for slot, row in enumerate(encoded):
        to[slot] = row
    weights = [
        Slot(row, 4, float("nan")).weights(dataclasses.replace(PRESET, divergence_gate=-1))
        for row in rows
    ]
    return StepRows(
        x=torch.stack([noise.chain() for noise in noises]),
        table=ChainTables(Schedule.respaced("20")).at(torch.tensor(indices)),
        to=to,
        previous_cls=to.source_cls + 0.1,
        crops=torch.stack([noise.crops() for noise in noises])[None],
        weights=torch.tensor([[w[name] for name in WEIGHTED] for w in weights]),
        wanted={name: [s for s, w in enumerate(weights) if w[name]] for name in WEIGHTED},
        classes=None,
    )


# -- which steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "indices"),
    [
        ({}, [4, 4, 3, 2, 1, 0]),
        ({"guidance_every": 2}, [4, 4, 2, 0]),
        ({"guidance_every": 3}, [4, 4, 1]),
        ({"guidance_lowest": 2}, [4, 4, 3, 2]),
        ({"guidance_highest": 3}, [3, 2, 1, 0]),
        ({"guidance_every": 2, "guidance_lowest": 1, "guidance_highest": 3}, [2]),
    ],
)
def test_losses_tell_of_the_guided_steps_and_steps_count_all(
    fields: dict[str, int], indices: list[int], models: Models
) -> None:
    preset = dataclasses.replace(PRESET, **fields)  # type: ignore[arg-type]
    ended = run(models, [request("both", 1)], preset)["both-1"]
    assert [step.index for step in ended.losses] == indices
    assert (ended.status, ended.steps) == ("done", STEPS)
    assert preset.guided_steps == len(indices) and preset.steps == STEPS
    assert preset.guides_every_step == (len(indices) == STEPS)


@pytest.mark.parametrize("lowest", [5, 6])
def test_a_chain_without_any_guidance_is_refused(lowest: int) -> None:
    with pytest.raises(PresetError, match="guidance_lowest is .*some step must be guided"):
        dataclasses.replace(PRESET, guidance_lowest=lowest)
    with pytest.raises(PresetError, match="some step must be guided"):
        dataclasses.replace(PRESET, guidance_lowest=3, guidance_highest=2)


@pytest.mark.parametrize("preset", [TINY64, IMAGENET256_IMAGE])
def test_presets_guide_every_step(preset: Preset) -> None:
    assert preset.guides_every_step and preset.guided_steps == preset.steps


# -- what a step does ----------------------------------------------------------------------------


def test_guided_rows_are_guided_and_plain_rows_only_denoised(models: Models) -> None:
    step = step_of(models, [4, 3, 2, 1, 0])
    guided, plain = [0, 2, 3], [1]
    with torch.no_grad():
        found = guide_some(models, PRESET, step, guided, plain)
        whole = guide(models, PRESET, **vars(step))
        output = models.unet(step.x, step.table.time)
    expected = read_denoiser(output, step.x, step.table)
    for name in ("push", "losses", "cls"):
        torch.testing.assert_close(
            getattr(found, name)[guided],
            getattr(whole, name)[guided],
            atol=1e-5,
            rtol=1e-4,
            equal_nan=True,
        )
    for name in ("eps", "x0", "log_variance"):
        torch.testing.assert_close(
            getattr(found.denoised, name)[:4], getattr(expected, name)[:4], atol=1e-5, rtol=1e-5
        )
        assert not getattr(found.denoised, name)[4].any(), "row 4 is neither guided nor plain"
    assert not found.push[[1, 4]].any() and found.losses[[1, 4]].isnan().all()
    assert torch.equal(found.cls[[1, 4]], step.previous_cls[[1, 4]])


def test_a_row_is_the_same_whichever_rows_are_guided_beside_it(models: Models) -> None:
    # Nine slots: groups of two. Neighbours enter a step later, and so take turns with the row.
    alone = {
        kind: run(models, [request(kind, 1)], EVERY_OTHER, slots=9)[f"{kind}-1"] for kind in KINDS
    }
    engine = Engine(models, EVERY_OTHER, 9)
    for kind in KINDS:
        engine.add(request(kind, 1))
    ended = engine.step()
    for number in range(2, 6):
        engine.add(request(KINDS[number % 3], number))
    while not engine.is_finished:
        ended += engine.step()
    found = {row.id: row for row in ended}
    for kind in KINDS:
        assert_same(found[f"{kind}-1"], alone[kind])


def test_no_guidance_at_the_last_index_changes_no_image(models: Models) -> None:
    # The image is the estimate of x0 that the prior makes there, before any push.
    preset = dataclasses.replace(PRESET, guidance_lowest=1)
    for kind in KINDS:
        exact = run(models, [request(kind, 1)], PRESET, slots=1)[f"{kind}-1"]
        short = run(models, [request(kind, 1)], preset, slots=1)[f"{kind}-1"]
        assert np.array_equal(short.image, exact.image)  # type: ignore[arg-type]
        assert repr(short.losses) == repr(exact.losses[:-1])


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_push_counts_for_the_steps_left_out(every: int, models: Models) -> None:
    preset = dataclasses.replace(PRESET, guidance_every=every)
    slot = Slot(request("image", 1), 4, float("nan"))
    assert slot.push_scale(preset) == 1, "all repeats of the first index are guided"
    slot.index = 2
    assert slot.push_scale(preset) == every


def test_a_push_of_a_spherical_step_counts_once() -> None:
    preset = dataclasses.replace(EVERY_OTHER, guidance_step="spherical")
    slot = Slot(request("image", 1), 4, float("nan"))
    slot.index = 2
    assert slot.push_scale(preset) == 1


def test_a_plain_step_that_is_not_finite_fails_the_row() -> None:
    slot = Slot(request("image", 1), 4, float("nan"))
    slot.advance(None, EVERY_OTHER, is_finite=False)
    assert slot.steps == 1 and slot.losses == [] and slot.index == 4


# -- guidance_space ------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_mix", [True, False])
def test_in_x0_space_the_predicted_noise_is_taken_as_given(models: Models, noise_mix: bool) -> None:
    step = step_of(models, [4, 3, 2])
    preset = dataclasses.replace(PRESET, noise_mix=noise_mix, guidance_space="x0")
    # One loss, so that its gradient at the view can be written down: 2 (z - style) / n.
    step.weights[:] = 0
    step.weights[:, WEIGHTED.index("style_pixels")] = 3.0
    found = guide(models, preset, **{**vars(step), "wanted": None})
    with torch.no_grad():
        x0 = read_denoiser(models.unet(step.x, step.table.time), step.x, step.table).x0
    f, a = step.table.noise, step.table.inverse_signal
    z, slope = (f * x0 + (1 - f) * step.x, f * a + 1 - f) if noise_mix else (x0, a)
    expected = -3.0 * 2 * (z - step.to.style) / (3 * SIZE * SIZE) * slope
    torch.testing.assert_close(found.push, expected, atol=1e-7, rtol=1e-4)
    through = guide(
        models, dataclasses.replace(preset, guidance_space="xt"), **{**vars(step), "wanted": None}
    )
    assert not torch.allclose(through.push, found.push, rtol=1e-2)
    torch.testing.assert_close(through.losses, found.losses, equal_nan=True)


def test_x0_space_makes_whole_images(models: Models) -> None:
    preset = dataclasses.replace(PRESET, guidance_space="x0")
    ended = run(models, [request(kind, 1) for kind in KINDS], preset)
    assert {row.status for row in ended.values()} == {"done"}
    assert all(math.isfinite(step.losses["total"]) for row in ended.values() for step in row.losses)
