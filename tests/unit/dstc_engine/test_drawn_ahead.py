"""Noise drawn ahead of the step's wait: the same values, in the same order, and none too many."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from dstc_engine.drawn_ahead import DrawnAhead
from dstc_engine.engine import Engine
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from tests.unit.dstc_engine.tiny import (
    CROPS,
    KINDS,
    PRESET,
    SIZE,
    Loud,
    Played,
    assert_same,
    half_mask,
    noise_of,
    request,
    run,
)

CPU = torch.device("cpu")
RESTARTING = dataclasses.replace(
    PRESET, range_restart=True, range_restart_limit=100.0, max_restarts=2
)
SOME_GUIDED = dataclasses.replace(PRESET, guidance_every=2, resample=3)


def test_streams_go_on_in_their_order_whatever_lay_ready() -> None:
    plain, ahead = noise_of(request("text", 1)), noise_of(request("text", 1))
    row = DrawnAhead(ahead, CPU, clips=2)
    row.look_ahead(chain=2, crops=1)
    row.look_ahead(chain=1, mask=1)
    for _ in range(4):
        assert torch.equal(row.chain(), plain.chain())
    assert torch.equal(row.crops(), torch.stack([plain.crops(), plain.crops()]))
    assert torch.equal(row.mask(), plain.mask())
    assert torch.equal(row.crops()[1], [plain.crops(), plain.crops()][1])
    assert [row.prior_class(9) for _ in range(3)] == [plain.prior_class(9) for _ in range(3)]


@pytest.mark.parametrize("preset", [RESTARTING, SOME_GUIDED], ids=["restarts", "some guided"])
def test_images_and_draws_are_those_of_noise_drawn_when_it_is_needed(
    preset: Preset, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four rows in two slots, with masks and without: two of them enter where another left.
    rows = [
        request(KINDS[n % 3], 40 + n, **({"mask": half_mask()} if n % 2 else {})) for n in range(4)
    ]
    drawn: list[Played] = []

    def make_noise(row: TranslationRequest) -> Noise:
        drawn.append(Played(Loud(row) if preset is RESTARTING else noise_of(row)))
        return drawn[-1]

    ours = run(models, rows, preset, slots=2, make_noise=make_noise)
    monkeypatch.setattr(DrawnAhead, "look_ahead", lambda *_, **__: None)
    theirs = run(models, rows, preset, slots=2, make_noise=make_noise)
    assert ours.keys() == theirs.keys() == {row.id for row in rows}
    for key, translation in ours.items():
        assert_same(translation, theirs[key])
    if preset is RESTARTING:
        assert any(translation.restarts for translation in ours.values())
    counts = [(len(noise.chains), len(noise.maps)) for noise in drawn]
    assert counts[:4] == counts[4:], "no more is drawn than a row uses"


class _Noted(RowNoise):
    """Noise that notes each of its draws."""

    def __init__(self, row: TranslationRequest, notes: list[str]) -> None:
        super().__init__(row.seed, SIZE, CROPS)
        self._notes = notes

    def chain(self) -> Tensor:
        self._notes.append("chain")
        return super().chain()

    def mask(self) -> Tensor:
        self._notes.append("mask")
        return super().mask()

    def crops(self) -> Tensor:
        self._notes.append("crops")
        return super().crops()


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was drawn, and each wait for the step's numbers."""
    found: list[str] = []
    real = torch.Tensor.tolist

    def tolist(tensor: Tensor) -> object:
        if tensor.is_floating_point() and tensor.ndim == 2:
            found.append("wait")
        return real(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    return found


def test_nothing_is_drawn_between_the_wait_and_the_next_step(
    models: Models, notes: list[str]
) -> None:
    engine = Engine(models, PRESET, 3, make_noise=lambda row: _Noted(row, notes))
    for kind in KINDS:
        engine.add(request(kind, 1, mask=half_mask()))
    engine.step()
    while not engine.is_finished:
        before = len(notes)
        engine.step()
        step = notes[before:]
        assert step.count("wait") == 1 and step[-1] == "wait"
    # Two of the rows have a prompt, and nobody draws for what comes after the last step.
    assert step == ["wait"]
