"""`--slots auto` on a fake card: what it takes fits, and half of the card holds half of it."""

from __future__ import annotations

import gc

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


def peak_of(card: FakeCard, networks: Models, slots: int) -> int:
    gc.collect()  # as `slots_that_fit` does: the engine before is in circles
    card.reset_peak()
    take_steps(networks, PRESET, slots)
    return card.peak


def test_slots_are_those_that_the_card_holds() -> None:
    with fake_cuda() as card:
        networks = models()
        take_steps(networks, PRESET, 1)  # embeds the prompt, which takes more than small steps
        peaks = {slots: peak_of(card, networks, slots) for slots in (1, 6, 7)}
        card.memory = int(peaks[6] / SHARE) + 1024
        # Six would fit. The line through two and four is a little steep, and what it gives is run.
        assert slots_that_fit(networks, PRESET) in (5, 6)
        card.memory = int(peaks[1] * 0.9)
        with pytest.raises(DeviceMemoryError, match="one slot takes more GiB"):
            slots_that_fit(networks, PRESET)
