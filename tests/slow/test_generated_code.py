"""Code that torch.compile generates for this machine: minutes, on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from dstc_engine.compiled import compiled
from tests.unit.dstc_engine import tiny

pytestmark = pytest.mark.slow


def test_generated_code_says_the_same() -> None:
    models = tiny.make_models()
    made = compiled(models)
    x = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([100.0, 900.0])
    counters.clear()
    with torch.no_grad():
        torch.testing.assert_close(made.unet(x, times), models.unet(x, times), atol=1e-5, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
