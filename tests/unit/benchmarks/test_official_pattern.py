"""The official pattern is the engine's translation, and does the work that it says it does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.official_pattern import OfficialPattern
from dstc_engine.diffusion.unet import UNet
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import Translation, TranslationRequest
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import (
    KINDS,
    PRESET,
    STEPS,
    Loud,
    half_mask,
    noise_of,
    request,
    run,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Faces(nn.Module):
    """Unit vectors of a face."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = nn.Linear(3 * tiny.SIZE**2, 8)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.looks(images.flatten(1)), dim=-1)


@pytest.fixture(scope="module")
def models() -> Models:
    """All kinds of networks, and two CLIP models."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        faces = Faces()
    return tiny.make_models(
        clips=(tiny.make_clip(), tiny.make_clip(9, width=24)),
        arcface=faces,
        vgg=tiny.make_vgg("relu1_1", "relu1_2", "relu2_1"),
    )


def assert_close(ours: Translation, engines: Translation) -> None:
    """Losses of each step within 1e-4 of their size, images within 2 of 255 levels."""
    assert (ours.status, ours.steps, ours.restarts, ours.error is None) == (
        engines.status,
        engines.steps,
        engines.restarts,
        engines.error is None,
    )
    assert [(s.index, s.phase) for s in ours.losses] == [(s.index, s.phase) for s in engines.losses]
    for mine, theirs in zip(ours.losses, engines.losses, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-6, nan_ok=True)
    assert ours.image is not None and engines.image is not None
    apart = np.abs(ours.image.astype(int) - engines.image)
    assert apart.max() <= 2


def both(models: Models, row: TranslationRequest, preset: Preset) -> Translation:
    """The official pattern's end of a row, once it is found to be the engine's."""
    ours = OfficialPattern(models, preset).translate(row)
    assert_close(ours, run(models, [row], preset, slots=1)[row.id])
    return ours


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_translation_of_the_engine(kind: str, models: Models) -> None:
    ended = both(models, request(kind, 1), PRESET)
    assert ended.steps == STEPS


@pytest.mark.parametrize(
    "changes",
    [
        dict(sampler="ddim"),
        dict(noise_mix=False),
        dict(match_colours=True),
        dict(regularize_content=True, contrast_clip_threshold=0.9),
        dict(weight_contrast=0.0, weight_style_pixels=0.0),
        dict(weight_identity=20.0),
        dict(
            weight_vgg_content=1.0,
            weight_vgg_gram=1.0,
            vgg_content_layers=("relu1_2",),
            vgg_gram_layers=("relu1_1", "relu2_1"),
        ),
    ],
    ids=lambda changes: "-".join(changes)[:40],
)
def test_presets_mean_the_same(changes: dict, models: Models) -> None:
    preset = dataclasses.replace(PRESET, **changes)
    ended = both(models, request("both", 2), preset)
    plain = OfficialPattern(models, PRESET).translate(request("both", 2))
    assert tiny.trace(ended) != tiny.trace(plain) or "match_colours" in changes


def test_a_class_conditional_prior_is_shown_the_same_classes() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet(dataclasses.replace(tiny.UNET, classes=5))
    tiny.awaken(unet, 1)
    both(tiny.make_models(unet=unet.eval()), request("text", 3), PRESET)


def test_restarts_are_the_same(models: Models) -> None:
    preset = dataclasses.replace(
        PRESET, range_restart=True, range_restart_limit=100.0, max_restarts=2
    )
    row = request("both", 4)
    ours = OfficialPattern(models, preset, make_noise=Loud).translate(row)
    assert ours.restarts == 2
    engines = run(models, [row], preset, slots=1, make_noise=Loud)[row.id]
    # Chains out of range multiply rounding; where they go and when they end stays the same.
    assert (engines.restarts, engines.steps) == (ours.restarts, ours.steps)


def test_a_row_leaves_nothing_behind(models: Models) -> None:
    pattern = OfficialPattern(models, PRESET)
    first = pattern.translate(request("both", 5))
    pattern.translate(request("image", 6))
    tiny.assert_same(pattern.translate(request("both", 5)), first)


def test_numbers_out_of_range_fail_the_row(models: Models) -> None:
    class Infinite(Loud):
        def chain(self) -> Tensor:
            return super().chain() * float("inf")

    ended = OfficialPattern(models, PRESET, make_noise=Infinite).translate(request("text", 7))
    assert (ended.status, ended.reason, ended.image) == ("failed", "non_finite", None)


@pytest.mark.parametrize(
    ("kind", "open_gate", "shut_gate"), [("text", 6, 4), ("image", 8, 6), ("both", 8, 6)]
)
def test_networks_look_as_often_as_in_the_script(
    kind: str, open_gate: int, shut_gate: int, models: Models
) -> None:
    looks: Counter[str] = Counter()
    assert models.dino is not None
    handles = [
        models.unet.register_forward_hook(lambda *_: looks.update(["unet"])),
        models.dino.register_forward_hook(lambda *_: looks.update(["dino"])),
    ]
    ended = OfficialPattern(models, PRESET).translate(request(kind, 1))
    for handle in handles:
        handle.remove()
    is_open = sum(step.index > PRESET.divergence_gate for step in ended.losses)
    assert 0 < is_open < STEPS
    assert looks["unet"] == 2 * STEPS
    assert looks["dino"] == is_open * open_gate + (STEPS - is_open) * shut_gate


def test_nothing_is_remembered_between_images(models: Models) -> None:
    pattern = OfficialPattern(models, PRESET)
    looks = []
    handle = models.clips[0].model.visual.register_forward_hook(lambda *_: looks.append(1))
    for _ in range(2):
        pattern.translate(request("text", 8))
    handle.remove()
    # Each time: the source whole, and one batch of crops in each step.
    assert len(looks) == 2 * (1 + STEPS)


def test_masks_are_refused(models: Models) -> None:
    row = request("text", 1, mask=half_mask())
    with pytest.raises(ValueError, match="'text-1' has a mask"):
        OfficialPattern(models, PRESET, make_noise=noise_of).translate(row)
