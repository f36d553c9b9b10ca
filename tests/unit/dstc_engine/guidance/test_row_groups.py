"""Rows gathered into groups of one size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dstc_engine.engine import Engine
from dstc_engine.guidance.row_groups import group_size, row_groups
from dstc_engine.models import Models
from dstc_engine.transfer import upload
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import KINDS, PRESET, assert_same, request, run

CPU = torch.device("cpu")


@pytest.mark.parametrize(("slots", "size"), [(1, 1), (4, 1), (8, 2), (15, 3), (16, 4), (64, 4)])
def test_on_a_cpu_a_group_is_a_quarter_of_the_table_and_four_rows_at_most(
    slots: int, size: int
) -> None:
    assert group_size(slots, CPU) == size


@pytest.mark.parametrize(("slots", "size"), [(1, 1), (3, 3), (4, 4), (8, 4), (64, 4)])
def test_on_a_gpu_a_group_is_four_rows_or_the_whole_table(slots: int, size: int) -> None:
    assert group_size(slots, torch.device("cuda")) == size


def test_the_last_row_is_repeated_until_the_group_is_full() -> None:
    groups = row_groups([1, 4, 5, 6, 9], 2, CPU)
    assert [group.index.tolist() for group in groups] == [[1, 4], [5, 6], [9, 9]]
    assert [group.count for group in groups] == [2, 2, 1]
    assert [group.rows.tolist() for group in groups] == [[1, 4], [5, 6], [9]]
    assert row_groups([], 2, CPU) == []


def test_a_row_is_the_same_whoever_shares_its_group() -> None:
    # Nine slots: groups of two. Five rows with a prompt: three groups, in one a repeat.
    vgg = tiny.make_vgg("relu1_1", "relu2_1")
    models = tiny.make_models(vgg=vgg)
    preset = dataclasses.replace(
        PRESET,
        weight_vgg_content=2.0,
        weight_vgg_gram=20.0,
        vgg_content_layers=("relu2_1",),
        vgg_gram_layers=("relu1_1", "relu2_1"),
    )
    rows = [request(KINDS[n % 3], n) for n in range(8)]
    together = run(models, rows, preset, slots=9)
    for row in rows:
        assert_same(run(models, [row], preset, slots=9)[row.id], together[row.id])


class _Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a GPU: a value that Python asks for, a shape that only
    values tell."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else ""
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("every", [1, 2])
def test_a_step_asks_for_no_value_but_its_losses(models: Models, every: int) -> None:
    engine = Engine(models, dataclasses.replace(PRESET, guidance_every=every), 3)
    for kind in KINDS:
        engine.add(request(kind, 1))
    engine.step()  # encodes the rows, and asks how far their contents are from the prompts
    with _Waits() as waits:
        engine.step()
        assert engine.step() == []
    # `tolist`, the one transfer of the losses, is not among what is counted here.
    assert waits.found == []
    with _Waits() as waits:
        float(torch.ones(1))
    assert waits.found == ["_local_scalar_dense"]


def test_uploads_keep_the_values() -> None:
    values = torch.arange(5)
    assert torch.equal(upload(values, CPU), values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: uploads are not asynchronous")
def test_uploads_do_not_wait_for_a_gpu() -> None:
    device = torch.device("cuda")
    busy = torch.randn(4096, 4096, device=device)
    for _ in range(50):
        busy = busy @ busy / 64
    done = torch.cuda.Event()
    done.record()
    uploaded = upload(torch.arange(1000), device)
    assert not done.query(), "the upload waited for the products"
    assert torch.equal(uploaded.cpu(), torch.arange(1000))
