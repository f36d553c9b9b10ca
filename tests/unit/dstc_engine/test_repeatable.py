"""What stands in for PyTorch's kernels that are not repeatable says the same as they do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dstc_engine import repeatable
from dstc_engine.repeatable import average_pool, sample_bilinear


@pytest.fixture
def asked() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def values_and_gradient(work: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    made = work(leaf)
    weights = torch.linspace(-1, 1, made.numel(), dtype=made.dtype).reshape(made.shape)
    (gradient,) = torch.autograd.grad((made * weights).sum(), leaf)
    return made.detach(), gradient


def test_sampling_by_index_is_grid_sample() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 9, 14, generator=generator, dtype=torch.float64)
    # Also outside of the image, and exactly on its corners.
    grid = 3 * torch.rand(2, 8, 11, 2, generator=generator, dtype=torch.float64) - 1.5
    grid[:, 0, 0], grid[:, 0, 1] = -1, 1
    ours = values_and_gradient(lambda leaf: repeatable._sample_by_index(leaf, grid), images)
    theirs = values_and_gradient(lambda leaf: sample_bilinear(leaf, grid), images)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("height", "width", "size"), [(188, 188, 112), (20, 31, 12), (6, 6, 6)])
def test_pooling_by_index_is_adaptive_average_pooling(height: int, width: int, size: int) -> None:
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    lines = repeatable._pool_lines
    ours = values_and_gradient(lambda leaf: lines(lines(leaf, size).mT, size).mT, images)
    theirs = values_and_gradient(lambda leaf: F.adaptive_avg_pool2d(leaf, size), images)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.found.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def names_of(device: str) -> set[str]:
    images = torch.zeros(1, 3, 20, 20, device=device)
    with _Names() as names:
        sample_bilinear(images, torch.zeros(1, 5, 5, 2, device=device))
        average_pool(images, 12)
    return names.found & {"grid_sampler_2d", "_adaptive_avg_pool2d"}


def test_they_stand_in_on_devices_when_asked(asked: None) -> None:
    assert names_of("meta") == set()
    assert len(names_of("cpu")) == 2, "a CPU's own kernels are repeatable"


def test_they_do_not_without() -> None:
    assert len(names_of("meta")) == 2


def test_asking_sets_up_the_process() -> None:
    told = (
        "import os, threading, torch\n"
        "from dstc_engine.repeatable import ask_for_repeatable_kernels\n"
        "ask_for_repeatable_kernels()\n"
        "found = []\n"
        "look = lambda: found.append(torch.are_deterministic_algorithms_enabled())\n"
        "thread = threading.Thread(target=look); thread.start(); thread.join()\n"
        "print(found, torch.is_deterministic_algorithms_warn_only_enabled(),\n"
        "      torch.backends.cudnn.benchmark, os.environ['CUBLAS_WORKSPACE_CONFIG'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    said = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, env=environment
    )
    assert said.stdout.split() == ["[True]", "False", "False", ":4096:8"]
