"""Whole chains through the engine, with recorded noise: every loss, samples on the way, the end."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from dstc_engine.models import Models
from tests.parity.golden_chains import check_chain
from tests.parity.golden_networks import read_config


@pytest.mark.parametrize("trajectory", read_config()["trajectories"], ids=lambda t: t["name"])
def test_trajectory(
    trajectory: dict[str, Any],
    config: dict[str, Any],
    goldens: dict[str, Tensor],
    models: Models,
) -> None:
    check_chain(trajectory, config, goldens, models)
