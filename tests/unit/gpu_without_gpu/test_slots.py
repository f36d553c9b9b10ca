"""`--slots auto` on a fake card: what it takes fits, and half of the card holds half of it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fake_cuda import FakeCard, fake_cuda
from dstc_engine.errors import DeviceMemoryError
from dstc_engine.fit_slots import slots_that_fit, take_steps
from dstc_engine.models import Models
from dstc_engine.step_memory import SHARE
from tests.unit.dstc_engine import tiny
from tests.unit.gpu_without_gpu.test_options import PRESET

MIB = 2**20


def models() -> Models:
    return tiny.make_models(device=torch.device("cuda"), precision="bf16")


def peak_of(card: FakeCard, slots: int) -> int:
    card.reset_peak()
    take_steps(models(), PRESET, slots)
    return card.peak


def test_slots_are_those_that_the_card_holds() -> None:
    with fake_cuda() as card:
        peaks = {slots: peak_of(card, slots) for slots in (1, 6, 7)}
        card.memory = int(peaks[6] / SHARE) + 1024
        # Six are tried by the line through two and four; what is chosen has been run.
        assert slots_that_fit(models(), PRESET) == 6
        card.memory = int(peaks[1] * 0.9)
        with pytest.raises(DeviceMemoryError, match="one slot takes more GiB"):
            slots_that_fit(models(), PRESET)
