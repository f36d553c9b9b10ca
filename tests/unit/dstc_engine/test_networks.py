"""One list says which networks a preset needs."""

from __future__ import annotations

import dataclasses

import pytest

from dstc_engine.losses import LOSSES, losses_of
from dstc_engine.models import Models, build_models
from dstc_engine.networks import NETWORKS, networks_of
from dstc_engine.presets import FFHQ256_TEXT, TINY64, Preset
from dstc_engine.weights.registry import REGISTRY
from tests.unit.dstc_engine import tiny

SILENT = dataclasses.replace(TINY64, **{f"weight_{name}": 0.0 for name in LOSSES})  # type: ignore[arg-type]


def test_only_what_a_loss_looks_through() -> None:
    assert networks_of(SILENT) == {"prior": ("emoji64-prior",)}
    assert [*networks_of(FFHQ256_TEXT)] == ["prior", "dino", "clips", "arcface"]
    assert networks_of(FFHQ256_TEXT)["clips"] == FFHQ256_TEXT.clips


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_brings_its_network_and_no_other(loss: str) -> None:
    preset = dataclasses.replace(SILENT, **{f"weight_{loss}": 1.0})  # type: ignore[arg-type]
    network = LOSSES[loss].network
    assert networks_of(preset).keys() == {"prior"} | ({network} if network else set())


def test_every_network_is_a_field_of_the_kind_of_its_weights() -> None:
    for field, kind in NETWORKS.items():
        names = getattr(FFHQ256_TEXT, field)
        for name in names if isinstance(names, tuple) else (names,):
            assert REGISTRY[name].kind == kind


def test_losses_of_one_network_share_a_view() -> None:
    for network in NETWORKS:
        assert len({LOSSES[name].view for name in losses_of(network)}) == (network != "prior")


def test_networks_are_made_once_each_from_their_names() -> None:
    asked: list[str] = []
    ready = {"prior": tiny.make_unet(), "dino": tiny.make_models().dino, "clips": tiny.make_clip()}

    def made(preset: Preset) -> Models:
        asked.clear()
        makers = {
            field: lambda name, field=field: asked.append(name) or ready[field] for field in ready
        }
        return build_models(preset, makers, precision="fp32")

    models = made(dataclasses.replace(TINY64, clips=("a", "b")))
    assert asked == ["emoji64-prior", "emoji64-vit", "a", "b"]
    assert models.clips == (ready["clips"],) * 2 and models.vgg is None
    blind = made(SILENT)
    assert asked == ["emoji64-prior"] and blind.dino is None and blind.clips == ()
