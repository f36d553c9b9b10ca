"""Operations and bytes are those of known products, and of the whole step as `--dry-run` has it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_ways import flops_of_step
from benchmarks.random_networks import prepared, random_models
from dstc_engine.kernel_counts import counting
from dstc_engine.models import load_models
from dstc_engine.operations import cost_of
from dstc_engine.presets import IMAGENET256_IMAGE, TINY64


def test_a_product_reads_both_factors_and_writes_the_result() -> None:
    a, b = torch.zeros(8, 16), torch.zeros(16, 4)
    with counting() as counted:
        a @ b
    did = counted["all"]
    assert did.flops == 2 * 8 * 16 * 4
    assert did.product_bytes == did.all_bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)


def test_backward_is_counted() -> None:
    a, b = torch.zeros(8, 16), torch.zeros(16, 4, requires_grad=True)
    with counting() as counted, torch.enable_grad():
        torch.autograd.grad((a @ b).sum(), b)
    assert counted["all"].flops == 2 * 2 * 8 * 16 * 4  # the weight's gradient costs as much


def test_views_move_nothing_and_copies_do() -> None:
    a = torch.zeros(8, 16)
    with counting() as counted:
        a.reshape(16, 8).t()[2:].unsqueeze(0)
        a.expand(3, 8, 16)
        torch.empty(100)
    assert not counted
    with counting() as counted:
        a.t().reshape(128)  # rows are no longer next to each other
        a.add_(1)
    assert counted["all"].all_bytes == 2 * 4 * 128 + 2 * 4 * 128
    assert counted["all"].flops == counted["all"].product_bytes == 0


def test_phases_are_asked_at_each_kernel() -> None:
    a = torch.zeros(4, 4)
    now = "first"
    with counting(lambda: now) as counted:
        a @ a
        now = "second"
        a @ a
        a @ a
    assert counted["second"].flops == 2 * counted["first"].flops > 0


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_step_costs_what_the_dry_run_says(kind: str) -> None:
    # The tables of attention kernels differ by device: the fused one of CPUs works out its
    # products anew on the way back.
    found = flops_of_step(load_models(TINY64), TINY64, kind)
    assert found == pytest.approx(cost_of(TINY64, with_prompt=kind == "text").step, rel=0.03)


def test_half_precision_costs_the_same_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v

    # As on CPUs in half precision; the fused one of fp32 works out its products anew.
    monkeypatch.setattr("dstc_engine.diffusion.unet.attend", attend)
    preset = prepared(IMAGENET256_IMAGE, "image", shrink=True)
    single, half = (
        flops_of_step(random_models(preset, "cpu", precision, True), preset, "image")
        for precision in ("fp32", "bf16")
    )
    assert half == pytest.approx(single, rel=0.03)
