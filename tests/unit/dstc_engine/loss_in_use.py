"""What `test_add_a_loss` runs, as a test, in the copy of the code that has the new loss."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from torch import Tensor

import dstc_engine.guidance.guide as guide_module
from dstc.cli import main
from dstc.store.results import result_schema
from dstc_engine.losses import LOSS_NAMES
from dstc_engine.models import Models
from dstc_engine.presets import Preset, with_fields
from dstc_engine.slots import Slot
from tests.unit.dstc_engine.tiny import KINDS, PRESET, STEPS, request, run

FOLDER = Path(__file__).parents[3]
NAME = "variation"
FIELD, _, TEXT = os.environ["DSTC_CHANGED"].partition("=")
GUIDED = with_fields(PRESET, {FIELD: TEXT})
ROWS = [request(kind, 1) for kind in KINDS]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images that the loss was computed from, (S, 3, H, W) each."""
    seen: list[Tensor] = []
    formula = guide_module.variation_loss  # type: ignore[attr-defined]

    def counted(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return formula(z)

    monkeypatch.setattr(guide_module, "variation_loss", counted)
    return seen


def test_it_guides_and_is_told(models: Models, computed: list[Tensor]) -> None:
    assert Path(guide_module.__file__).is_relative_to(FOLDER), "the copy is what runs"
    guided, plain = run(models, ROWS, GUIDED), run(models, ROWS)
    assert len(computed) == STEPS, "of the guided run alone"
    for slot, row in enumerate(ROWS):
        recorded = [step.losses[NAME] for step in guided[row.id].losses]
        # Straight from what Rudin et al. square, in double precision.
        images = [z[slot].double().numpy() for z in computed]
        by_hand = [(np.diff(i, axis=1) ** 2).mean() + (np.diff(i) ** 2).mean() for i in images]
        np.testing.assert_allclose(recorded, by_hand, rtol=1e-5)
        without = plain[row.id]
        assert all(math.isnan(step.losses[NAME]) for step in without.losses)
        assert not np.array_equal(guided[row.id].image, without.image)  # type: ignore[arg-type]
    images = {name: translation.image for name, translation in plain.items()}
    np.savez(FOLDER / "without.npz", **images)  # type: ignore[arg-type]


def test_a_row_of_weight_0_gets_nothing_from_it(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Slot.weights

    def only_the_last(slot: Slot, preset: Preset) -> dict[str, float]:
        share = weights(slot, preset)
        return share if slot.request.id == ROWS[-1].id else share | {NAME: 0.0}

    monkeypatch.setattr(Slot, "weights", only_the_last)
    mixed, plain = run(models, ROWS, GUIDED), run(models, ROWS)
    for row in ROWS[:-1]:
        assert all(math.isnan(step.losses[NAME]) for step in mixed[row.id].losses)
        assert np.array_equal(mixed[row.id].image, plain[row.id].image)  # type: ignore[arg-type]
    assert all(math.isfinite(step.losses[NAME]) for step in mixed[ROWS[-1].id].losses)


def test_the_job_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    step = result_schema(pa.schema([("id", pa.string())])).field("losses").type.value_type
    assert [field.name for field in step][2:] == list(LOSS_NAMES) and NAME in LOSS_NAMES
    with pytest.raises(SystemExit) as end:
        main(["presets", "tiny64", "--set", f"{FIELD}={TEXT}"])
    output = capsys.readouterr().out
    assert end.value.code in (None, 0) and FIELD in output and "(changed from 0.0)" in output
    assert dataclasses.replace(PRESET, **{FIELD: float(TEXT)}) == GUIDED
