"""The engine with tiny networks: rows alone and among others, refill, restart, failure, masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.engine import Engine, translate
from dstc_engine.errors import PresetError
from dstc_engine.losses import LOSSES, SEEN_BY_DINO
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.tensors import to_image
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
    half_mask,
    noise_of,
    request,
    run,
)


@pytest.fixture(scope="module")
def alone(models: Models) -> dict[str, Translation]:
    """Each kind of row, the only one in a table of three."""
    return {kind: run(models, [request(kind, 1)])[f"{kind}-1"] for kind in KINDS}


# -- an image depends on its own row ------------------------------------------------------------


@pytest.mark.parametrize("turn", range(3))
def test_rows_are_the_same_in_each_slot_of_a_full_table(
    turn: int, models: Models, alone: dict[str, Translation]
) -> None:
    # Each kind of row in each slot, among the two other kinds.
    ended = run(models, [request(KINDS[(at + turn) % 3], 1) for at in range(3)])
    for kind in KINDS:
        assert_same(ended[f"{kind}-1"], alone[kind])


@pytest.mark.parametrize(("late", "early"), [(("text", "both"), "image"), (("image",), "text")])
def test_rows_that_enter_late_are_the_same(
    late: tuple[str, ...], early: str, models: Models, alone: dict[str, Translation]
) -> None:
    engine = Engine(models, PRESET, 3)
    engine.add(request(early, 20))
    ended = engine.step() + engine.step()
    for kind in late:
        engine.add(request(kind, 1))
    while not engine.is_finished:
        ended += engine.step()
    for kind in late:
        assert_same({t.id: t for t in ended}[f"{kind}-1"], alone[kind])


def test_rows_in_used_slots_are_the_same(models: Models, alone: dict[str, Translation]) -> None:
    before = [request(KINDS[n], 30 + n, mask=half_mask()) for n in (2, 0, 1)]
    ended = run(models, [*before, *(request(kind, 1) for kind in KINDS)])
    for kind in KINDS:
        assert_same(ended[f"{kind}-1"], alone[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_while_its_neighbors_start_again(
    kind: str, models: Models, alone: dict[str, Translation]
) -> None:
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=100.0, max_restarts=2
    )
    rows = [request("image", 40), request(kind, 1), request("text", 41)]

    def make_noise(row: TranslationRequest) -> Noise:
        return noise_of(row) if row.seed == 1 else Loud(row)

    ended = run(models, rows, preset, make_noise=make_noise)
    assert ended["image-40"].restarts == ended["text-41"].restarts == 2
    assert_same(ended[f"{kind}-1"], alone[kind])


def test_the_order_of_arrival_changes_no_image(models: Models) -> None:
    rows = [request(KINDS[n % 3], 50 + n) for n in range(4)]
    forth, back = run(models, rows), run(models, rows[::-1])
    assert forth.keys() == back.keys() == {row.id for row in rows}
    for name, ended in forth.items():
        assert_same(ended, back[name])


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_another_image(
    kind: str, models: Models, alone: dict[str, Translation]
) -> None:
    other = dataclasses.replace(request(kind, 1), seed=2)
    ended = run(models, [other])[other.id]
    image, first = ended.image, alone[kind].image
    assert image is not None and first is not None
    assert (image != first).mean() > 0.2


def test_prompt_style_and_content_all_reach_the_image(
    models: Models, alone: dict[str, Translation]
) -> None:
    row = request("both", 1)
    for change in (
        {"prompt": "something else"},
        {"source_prompt": None},
        {"style": tiny.image(7)},
        {"content": tiny.image(8)},
    ):
        other = run(models, [dataclasses.replace(row, **change)])[row.id]
        assert tiny.trace(other) != tiny.trace(alone["both"]), f"{list(change)} has no effect"
    images = [alone[kind].image for kind in KINDS]
    assert all(p is not None and p.shape == (SIZE, SIZE, 3) for p in images)
    assert tiny.trace(alone["text"]) != tiny.trace(alone["image"])


def test_a_row_tells_only_the_losses_that_guided_it(alone: dict[str, Translation]) -> None:
    absent = {"text": {"style_cls", "style_pixels"}, "image": {"clip"}, "both": set()}
    silent = {name for name in LOSSES if not PRESET.guides(name)}
    assert {"identity", "vgg_content", "vgg_gram"} <= silent
    for kind, ended in alone.items():
        assert [step.index for step in ended.losses] == [4, 4, 3, 2, 1, 0]
        assert [step.phase for step in ended.losses] == ["resample"] * 2 + ["sample"] * 4
        for step in ended.losses:
            missing = {name for name, value in step.losses.items() if math.isnan(value)}
            closed = {"divergence"} if step.index <= PRESET.divergence_gate else set()
            assert missing == absent[kind] | closed | silent


# -- refill --------------------------------------------------------------------------------------


def test_no_more_rows_are_taken_than_there_are_free_slots(models: Models) -> None:
    taken = 0

    def endless() -> Iterator[TranslationRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield request("image", taken)

    engine = Engine(models, PRESET, 2)
    ended = translate(engine, endless())
    names = []
    for count in range(1, 6):
        names.append(next(ended).id)
        # Those that have ended, those that run, and none besides.
        assert taken <= 2 * ((count + 1) // 2)
    assert names == [f"image-{n}" for n in range(1, 6)]


def test_every_row_ends_once_when_there_are_more_rows_than_slots(models: Models) -> None:
    calls = count_calls(models.unet)
    ended = list(translate(Engine(models, PRESET, 2), [request("image", n) for n in range(5)]))
    assert sorted(t.id for t in ended) == [f"image-{n}" for n in range(5)]
    assert {t.status for t in ended} == {"done"} and {t.steps for t in ended} == {STEPS}
    # Five rows in two slots: three rounds. A slot that idled for a step would take more.
    assert calls() == 3 * STEPS


def test_free_slots_count_what_waits(models: Models) -> None:
    engine = Engine(models, PRESET, 2)
    assert engine.free_slots == 2 and engine.is_finished
    assert engine.step() == []
    for left in (1, 0, 0):
        engine.add(request("image", left))
        assert engine.free_slots == left and not engine.is_finished
    engine.step()
    assert engine.free_slots == 0
    engine.add(request("image", 5))
    assert engine.free_slots == 0


# -- what a step costs ---------------------------------------------------------------------------


def count_calls(network: nn.Module) -> Callable[[], int]:
    """Counts the forward passes of a network from now on; asked for the count, it stops."""
    calls: list[int] = []
    handle = network.register_forward_hook(lambda *_: calls.append(1))

    def count() -> int:
        handle.remove()
        return len(calls)

    return count


def test_one_look_through_each_network_per_step(models: Models) -> None:
    engine = Engine(models, PRESET, 3)
    for kind in KINDS:
        engine.add(request(kind, 60))
    engine.step()  # encodes the conditions as well
    assert models.dino is not None
    unet, dino = count_calls(models.unet), count_calls(models.dino)
    clip = count_calls(models.clips[0].model.visual)
    for _ in range(3):
        engine.step()
    # CLIP sees the two rows with a prompt, which three slots show it one by one.
    assert (unet(), dino(), clip()) == (3, 3, 2 * 3)


def test_clip_does_not_look_at_rows_without_a_prompt(models: Models) -> None:
    engine = Engine(models, PRESET, 3)
    for seed in range(3):
        engine.add(request("image", seed))
    engine.step()
    clip = count_calls(models.clips[0].model.visual)
    while not engine.is_finished:
        engine.step()
    assert clip() == 0


@pytest.mark.parametrize(("respacing", "skip", "resample"), [("12", 4, 3), ("12", 11, 2)])
def test_steps_of_a_row(respacing: str, skip: int, resample: int, models: Models) -> None:
    preset = dataclasses.replace(
        PRESET, respacing=respacing, skip=skip, resample=resample, range_restart=False
    )
    unet = count_calls(models.unet)
    ended = run(models, [request("image", 0)], preset)["image-0"]
    assert unet() == ended.steps == (int(respacing) - skip - 1) + resample


# -- restart -------------------------------------------------------------------------------------


class Replay:
    """Noise from lists."""

    def __init__(self, chains: list[Tensor], maps: list[Tensor]) -> None:
        self._chains, self._maps = iter(chains), iter(maps)

    def chain(self) -> Tensor:
        return next(self._chains)

    def mask(self) -> Tensor:
        raise AssertionError("no row here has a mask")

    def crops(self) -> Tensor:
        return next(self._maps)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_started_again_is_as_if_it_were_the_first(kind: str, models: Models) -> None:
    # Out of range at any step below the first index: given up after the two steps there and one.
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=0.0, max_restarts=1
    )
    row, given_up = request(kind, 3), 3
    played = Played(noise_of(row))
    again = run(models, [row], preset, make_noise=lambda _: played)[row.id]
    assert (again.restarts, again.steps) == (1, given_up + STEPS)
    # The start, a noise for each step, and one to go back with.
    chains = played.chains[given_up + 2 :]
    maps = played.maps[given_up:]
    calm = dataclasses.replace(preset, range_restart=False)
    fresh = run(models, [row], calm, make_noise=lambda _: Replay(chains, maps))[row.id]
    assert fresh.image is not None
    assert tiny.trace(again) == tiny.trace(fresh)
    assert np.array_equal(again.image, fresh.image)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_restarts_are_limited_and_reported(limit: int, models: Models) -> None:
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=0.0, max_restarts=limit
    )
    ended = run(models, [request("image", 4)], preset)["image-4"]
    assert (ended.status, ended.restarts) == ("done", limit)
    assert ended.steps == STEPS + 3 * limit
    assert len(ended.losses) == STEPS, "losses are those of the last chain"


def test_it_says_how_much_of_its_rows_is_done(models: Models) -> None:
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=100.0, max_restarts=1
    )
    engine = Engine(models, preset, 3, make_noise=Loud)
    engine.add(request("image", 40))
    seen, ended = [], list[Translation]()
    while not engine.is_finished:
        ended += engine.step()
        seen.append(round(STEPS * engine.rows_underway))
    assert ended[0].restarts == 1
    # The whole chain again after the restart, and nothing once the row is out.
    again = seen.index(0)
    assert seen == [*range(1, again + 1), 0, *range(1, STEPS), 0] and again < STEPS


def test_steps_without_guidance_are_no_progress(models: Models) -> None:
    preset = dataclasses.replace(PRESET, guidance_every=2)
    engine = Engine(models, preset, 3)
    engine.add(request("image", 1))
    seen = []
    while not engine.is_finished:
        engine.step()
        seen.append(engine.rows_underway)
    assert preset.guided_steps == 4
    assert seen == [0.25, 0.5, 0.5, 0.75, 0.75, 0]


# -- failure -------------------------------------------------------------------------------------


class Poisoned(nn.Module):
    """A network that yields NaN for one slot in one call."""

    def __init__(self, network: nn.Module, call: int, slot: int) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        self.call, self.slot = call, slot

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        self.call -= 1
        output: Tensor = self.network(x, *others)
        sick = torch.arange(len(output)) == (self.slot if self.call == -1 else -1)
        return output.masked_fill(sick[:, None, None, None], float("nan"))


POISON_ROWS = [request(kind, 70 + at) for at, kind in enumerate(KINDS)] + [request("text", 80)]


@pytest.fixture(scope="module")
def calm(models: Models) -> dict[str, Translation]:
    """The rows of the next test when nothing goes wrong."""
    return run(models, POISON_ROWS)


@pytest.mark.parametrize("call", [0, 1, STEPS - 1])
def test_a_row_that_is_not_finite_fails_alone(call: int, calm: dict[str, Translation]) -> None:
    poisoned = tiny.make_models(unet=Poisoned(tiny.make_unet(), call, slot=1))
    ended = run(poisoned, POISON_ROWS)
    failed = ended.pop("image-71")
    assert (failed.status, failed.reason, failed.image) == ("failed", "non_finite", None)
    assert failed.steps == call + 1
    assert failed.error is not None and str([4, 4, 3, 2, 1, 0][call]) in failed.error
    # "text-80" runs in the slot that the failed row left.
    assert ended.keys() == {"text-70", "both-72", "text-80"}
    for name, other in ended.items():
        assert_same(other, calm[name])


def test_a_failed_row_leaves_no_nan_in_its_slot(models: Models) -> None:
    poisoned = tiny.make_models(unet=Poisoned(tiny.make_unet(), 1, slot=0))
    seen: list[Tensor] = []
    engine = Engine(poisoned, PRESET, 2, watch=lambda x, x0: seen.append(x))
    engine.add(request("image", 1))
    engine.add(request("image", 2))
    while not engine.is_finished:
        engine.step()
    assert not seen[1][0].isfinite().any()
    assert all(x.isfinite().all() for x in seen[2:])


# -- variants ------------------------------------------------------------------------------------

VGG = dataclasses.replace(
    PRESET,
    weight_vgg_content=2.0,
    weight_vgg_gram=20.0,
    vgg_content_layers=("relu2_1",),
    vgg_gram_layers=("relu1_1", "relu2_1"),
    **{f"weight_{name}": 0.0 for name in SEEN_BY_DINO},  # type: ignore[arg-type]
)


def test_vgg_in_place_of_dino() -> None:
    models = tiny.make_models(dino=None, vgg=tiny.make_vgg("relu1_1", "relu2_1"))
    absent = {"text": {"style_pixels", "vgg_gram"}, "image": {"clip"}, "both": set()}
    silent = {name for name in LOSSES if not VGG.guides(name)}
    assert {*SEEN_BY_DINO, "identity"} <= silent
    rows = [request(kind, 1) for kind in KINDS]
    together = run(models, rows, VGG)
    for kind, row in zip(KINDS, rows, strict=True):
        ended = together[row.id]
        assert_same(run(models, [row], VGG)[row.id], ended)
        for step in ended.losses:
            missing = {name for name, value in step.losses.items() if math.isnan(value)}
            assert missing == absent[kind] | silent
    image = together["image-1"].image
    for weight in ("weight_vgg_content", "weight_vgg_gram"):
        without = run(models, rows[1:2], dataclasses.replace(VGG, **{weight: 0.0}))["image-1"]
        assert not np.array_equal(without.image, image)  # type: ignore[arg-type]


def test_neither_dino_nor_clip() -> None:
    models = tiny.make_models(dino=None, clips=(), vgg=tiny.make_vgg("relu1_1", "relu2_1"))
    preset = dataclasses.replace(VGG, weight_clip=0.0, regularize_content=True)
    ended = run(models, [request(kind, 1) for kind in KINDS], preset)
    assert {t.status for t in ended.values()} == {"done"}
    assert all(math.isnan(step.losses["clip"]) for t in ended.values() for step in t.losses)


def test_style_without_the_pixel_loss(models: Models, alone: dict[str, Translation]) -> None:
    preset = dataclasses.replace(PRESET, weight_style_pixels=0.0)
    ended = run(models, [request(kind, 1) for kind in KINDS], preset)
    for kind in KINDS:
        assert_same(ended[f"{kind}-1"], run(models, [request(kind, 1)], preset)[f"{kind}-1"])
    assert_same(ended["text-1"], alone["text"])
    ours, theirs = ended["image-1"], alone["image"]
    assert all(math.isnan(step.losses["style_pixels"]) for step in ours.losses)
    # In the first step nothing has moved yet: every other loss is what it was.
    for name, value in ours.losses[0].losses.items():
        if name not in ("style_pixels", "total", "clip") and not math.isnan(value):
            assert value == theirs.losses[0].losses[name]
    assert not np.array_equal(ours.image, theirs.image)  # type: ignore[arg-type]


def test_ddim_ends_at_the_estimate_and_draws_on_no_noise_but_the_start(models: Models) -> None:
    preset = dataclasses.replace(PRESET, sampler="ddim", resample=1)
    row = request("image", 7)
    noise = noise_of(row)
    start, nothing = noise.chain(), torch.zeros(3, SIZE, SIZE)
    whole = run(models, [row], preset)[row.id]
    muted = run(
        models, [row], preset, make_noise=lambda _: Replay([start] + [nothing] * STEPS, [])
    )[row.id]
    assert_same(whole, muted)
    ddpm = run(models, [row], dataclasses.replace(preset, sampler="ddpm"))[row.id]
    assert not np.array_equal(ddpm.image, whole.image)  # type: ignore[arg-type]


def test_several_clip_models_leave_the_chain_of_an_image_row_as_it_is(
    models: Models, alone: dict[str, Translation]
) -> None:
    pair = tiny.make_models(clips=(tiny.make_clip(), tiny.make_clip(seed=9, width=24)))
    assert_same(run(pair, [request("image", 1)])["image-1"], alone["image"])
    both = run(pair, [request("text", 1)])["text-1"]
    assert both.status == "done" and tiny.trace(both) != tiny.trace(alone["text"])


def test_two_equal_clip_models_guide_as_one(models: Models) -> None:
    # One crop that shows the whole image: both models see the same.
    class Whole(RowNoise):
        def crops(self) -> Tensor:
            return torch.eye(3)[None, :2]

    preset = dataclasses.replace(PRESET, crops=1)
    row = request("text", 1)
    losses = []
    for clips in ((tiny.make_clip(),), (tiny.make_clip(), tiny.make_clip())):
        ended = run(
            tiny.make_models(clips=clips),
            [row],
            preset,
            make_noise=lambda r: Whole(r.seed, SIZE, CROPS),
        )
        losses.append([step.losses["clip"] for step in ended[row.id].losses])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_images_that_are_not_square(fit: str, models: Models) -> None:
    preset = dataclasses.replace(PRESET, fit=fit)
    row = request("both", 8, content=tiny.image(1, 24, 36), style=tiny.image(2, 9, 50))
    image = run(models, [row], preset)[row.id].image
    assert image is not None
    assert image.shape == ((16, 16, 3) if fit == "crop" else (11, 16, 3))


def test_matched_colors_have_the_mean_of_the_style(models: Models) -> None:
    row = request("image", 9, style=(tiny.image(3) // 4 + 100).astype(np.uint8))
    matched = run(models, [row], dataclasses.replace(PRESET, match_colours=True))[row.id].image
    plain = run(models, [row])[row.id].image
    assert matched is not None and plain is not None and row.style is not None
    mean = row.style.mean((0, 1))
    assert np.abs(matched.mean((0, 1)) - mean).max() < 1
    assert np.abs(plain.mean((0, 1)) - mean).max() > 5


def test_the_watcher_sees_the_estimate_that_becomes_the_image(models: Models) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    engine = Engine(models, PRESET, 1, watch=lambda *pair: seen.append(pair))
    engine.add(request("image", 1))
    ended: list[Translation] = []
    while not engine.is_finished:
        ended += engine.step()
    assert len(seen) == STEPS and ended[0].image is not None
    assert np.array_equal(to_image(seen[-1][1][0]), ended[0].image)


def test_a_chain_without_a_step_is_refused_when_the_engine_is_made(models: Models) -> None:
    with pytest.raises(PresetError, match="skip is 20; expected 0-19"):
        Engine(models, dataclasses.replace(PRESET, skip=20), 1)


def test_dino_at_another_size_than_the_image() -> None:
    models = tiny.make_models()
    assert isinstance(models.dino, Dino) and isinstance(models.clips[0], Clip)
    preset = dataclasses.replace(PRESET, image_size=32)
    rows = [request(kind, 1) for kind in KINDS]
    ended = run(models, rows, preset)
    assert {t.status for t in ended.values()} == {"done"}
    assert all(t.image is not None and t.image.shape == (32, 32, 3) for t in ended.values())
