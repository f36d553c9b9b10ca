"""The engine with priors of other kinds: class-conditional, of other schedules and variances."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet import UNet
from dstc_engine.engine import Engine
from dstc_engine.errors import PresetError
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import (
    CROPS,
    KINDS,
    PRESET,
    SIZE,
    STEPS,
    Loud,
    Played,
    assert_same,
    noise_of,
    request,
    run,
)

CLASSES = 5


def conditional_unet() -> UNet:
    """The tiny UNet, shown one of five classes that are far apart."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = UNet(dataclasses.replace(tiny.UNET, classes=CLASSES))
    tiny.awaken(network, 1)
    return network.eval()


@pytest.fixture(scope="module")
def conditional() -> Models:
    return tiny.make_models(unet=conditional_unet())


def shown_classes(models: Models, rows: list[TranslationRequest], preset: Preset) -> list[Tensor]:
    """What the prior is shown in each step, (S,) each; rows one per slot."""
    shown: list[Tensor] = []
    handle = models.unet.register_forward_pre_hook(lambda _, given: shown.append(given[2]))
    run(models, rows, preset)
    handle.remove()
    return shown


def test_each_step_shows_each_row_the_next_class_of_its_own_stream(conditional: Models) -> None:
    rows = [request("text", 1), request("image", 2)]
    shown = torch.stack(shown_classes(conditional, rows, PRESET))
    assert shown.shape == (STEPS, 3) and shown.dtype == torch.int64
    for slot, row in enumerate(rows):
        own = noise_of(row)
        assert shown[:, slot].tolist() == [own.prior_class(CLASSES) for _ in range(STEPS)]
    # Repeats of the first index are steps too; seed 1 draws another class there.
    assert shown[0, 0] != shown[1, 0]
    assert not shown[:, 2].any(), "the empty slot"


def test_classes_reach_the_image_and_the_guidance(conditional: Models) -> None:
    ended = {
        fixed: run(conditional, [request("image", 1)], with_class(fixed))["image-1"]
        for fixed in (-1, 0, 3)
    }
    traces = {tiny.trace(end) for end in ended.values()}
    assert len(traces) == 3


def with_class(fixed: int) -> Preset:
    return dataclasses.replace(PRESET, prior_class=fixed)


def test_a_fixed_class_is_shown_in_every_step(conditional: Models) -> None:
    shown = shown_classes(conditional, [request("image", n) for n in range(3)], with_class(4))
    assert [step.tolist() for step in shown] == [[4, 4, 4]] * STEPS


@pytest.mark.parametrize("fixed", [0, 3])
def test_a_class_shifts_the_time_embedding_and_nothing_else(
    fixed: int, conditional: Models
) -> None:
    # A network without classes whose last bias already holds the class: the same chain.
    state = conditional.unet.state_dict()
    plain = UNet(tiny.UNET)
    embedded = state.pop("label_emb.weight")
    state["time_embed.2.bias"] = state["time_embed.2.bias"] + embedded[fixed]
    plain.load_state_dict(state, strict=True)
    rows = [request(kind, 1) for kind in KINDS]
    ours = run(conditional, rows, with_class(fixed))
    theirs = run(tiny.make_models(unet=plain), rows)
    for name, one in ours.items():
        for mine, other in zip(one.losses, theirs[name].losses, strict=True):
            assert mine.losses == pytest.approx(other.losses, rel=1e-3, abs=1e-5, nan_ok=True)
        difference = one.image.astype(int) - theirs[name].image  # type: ignore[union-attr]
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("turn", range(3))
def test_classes_of_neighbors_change_no_row(turn: int, conditional: Models) -> None:
    rows = [request(KINDS[(at + turn) % 3], 1) for at in range(3)]
    together = run(conditional, rows)
    for row in rows:
        assert_same(together[row.id], run(conditional, [row])[row.id])


def test_rows_that_enter_late_or_start_again_see_their_own_classes(conditional: Models) -> None:
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=100.0, max_restarts=2
    )
    rows = [request("image", 40), request("text", 41), request("both", 1), request("image", 1)]

    def make_noise(row: TranslationRequest) -> Noise:
        return noise_of(row) if row.seed == 1 else Loud(row)

    ended = run(conditional, rows, preset, slots=2, make_noise=make_noise)
    assert ended["image-40"].restarts == ended["text-41"].restarts == 2
    for name in ("both-1", "image-1"):
        row = next(row for row in rows if row.id == name)
        assert_same(ended[name], run(conditional, [row], preset, slots=2)[name])


def test_every_step_draws_a_class_those_before_a_restart_too(conditional: Models) -> None:
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=0.0, max_restarts=1
    )
    row = request("image", 3)
    shown = shown_classes(conditional, [row], preset)
    own = noise_of(row)
    given_up = 3
    expected = [own.prior_class(CLASSES) for _ in range(given_up + STEPS)]
    assert [int(step[0]) for step in shown] == expected


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_classes_leave_the_noise_of_the_chain_as_it_is(sampler: str, conditional: Models) -> None:
    preset = dataclasses.replace(PRESET, sampler=sampler)
    drawn: dict[int, list[Tensor]] = {}
    for fixed in (-1, 2):
        played = Played(noise_of(request("text", 1)))
        both = dataclasses.replace(preset, prior_class=fixed)
        run(conditional, [request("text", 1)], both, make_noise=lambda _, p=played: p)
        drawn[fixed] = played.chains + played.maps
    assert len(drawn[-1]) == len(drawn[2]) > STEPS
    assert all(torch.equal(one, other) for one, other in zip(drawn[-1], drawn[2], strict=True))


def test_a_prior_without_classes_is_shown_none_and_none_are_drawn(models: Models) -> None:
    class NoClasses(RowNoise):
        def prior_class(self, count: int) -> int:
            raise AssertionError("nobody asked for a class")

    shown: list[object] = []
    handle = models.unet.register_forward_pre_hook(lambda _, given: shown.append(given[2]))
    run(
        models,
        [request("text", 1)],
        make_noise=lambda row: NoClasses(row.seed, SIZE, CROPS),
    )
    handle.remove()
    assert shown == [None] * STEPS


def test_a_class_that_the_prior_does_not_have_is_refused_when_the_engine_is_made(
    models: Models, conditional: Models
) -> None:
    with pytest.raises(PresetError, match="prior_class is 5; expected -1 to 4"):
        Engine(conditional, with_class(CLASSES), 1)
    with pytest.raises(PresetError, match="prior_class is 0; expected -1"):
        Engine(models, with_class(0), 1)


def test_a_prior_of_another_schedule_and_a_fixed_variance(models: Models) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet(dataclasses.replace(tiny.UNET, learn_sigma=False, resblock_updown=False))
    tiny.awaken(unet, 1)
    noise = NoiseSchedule(kind="cosine", steps=4000, rescale_timesteps=True)
    other = tiny.make_models(unet=unet.eval(), noise_schedule=noise)
    times: list[float] = []
    handle = unet.register_forward_pre_hook(lambda _, given: times.append(float(given[1][0])))
    starts: list[Tensor] = []
    pre = unet.register_forward_pre_hook(lambda _, given: starts.append(given[0].clone()))
    row = request("image", 1)
    ended = run(other, [row])[row.id]
    handle.remove()
    pre.remove()
    assert ended.status == "done"
    # 20 of 4000 times, the first index 4 twice; a quarter of each.
    kept = np.round(np.linspace(0, 3999, 20))[[4, 4, 3, 2, 1, 0]] / 4
    assert times == pytest.approx(kept.tolist())
    content = torch.from_numpy(row.content / 127.5 - 1).permute(2, 0, 1)
    f = np.cos((np.array([kept[0] * 4 + 1, 0]) / 4000 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = f[0] / f[1]
    start = abar**0.5 * content + (1 - abar) ** 0.5 * noise_of(row).chain()
    torch.testing.assert_close(starts[0][0].double(), start.double(), atol=1e-5, rtol=0)
