"""The tiny networks, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dstc_engine.models import Models
from tests.unit.dstc_engine import tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the job's actors have it: with two, a row's last bits depend on its slot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models() -> Models:
    """Frozen; tests that change or count something take a copy of their own."""
    return tiny.make_models()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
