"""The watch finds what it looks for: each fault, put into a sound step, fails it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.fake_cuda import fake_cuda
from benchmarks.kernel_watch import KernelWatch, watched_steps
from dstc_engine.engine import Engine
from dstc_engine.guidance import guide
from tests.unit.dstc_engine import tiny
from tests.unit.gpu_without_gpu.test_options import PRESET, models_of

ATTENTION = torch.nn.functional.scaled_dot_product_attention


def watched(work: Callable[[Tensor], Any]) -> KernelWatch:
    """What (4, 4) numbers on the card go through."""
    with fake_cuda():
        given = torch.zeros(4, 4, device="cuda")
        with KernelWatch() as watch:
            work(given)
    return watch


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x[0, 0] > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.ones(4).to(x.device),
        lambda x: torch.ones(4).to(x.device, non_blocking=True),  # not pinned
        lambda x: x.copy_(torch.ones(4, 4)),
        lambda x: x[torch.tensor([0, 1])],  # places on the CPU
        lambda x: _quiet(lambda: x.nonzero()),  # fake kernels cannot say how many
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_a_wait_is_counted(work: Callable[[Tensor], Any]) -> None:
    watch = watched(work)
    assert sum(watch.waits.values()) == 1 and not watch.faults


@pytest.mark.parametrize(
    "work",
    [
        lambda x: torch.ones(4).pin_memory().to(x.device, non_blocking=True),
        lambda x: x * 2.0 + torch.tensor(1.0),  # a number is passed by value
        lambda x: x[torch.tensor([0, 1]).pin_memory().to(x.device, non_blocking=True)],
        lambda x: x.new_zeros(3) + x[0, :3],
    ],
)
def test_what_does_not_wait_is_not(work: Callable[[Tensor], Any]) -> None:
    watch = watched(work)
    assert not watch.waits and not watch.faults


def test_a_product_of_two_types_is_a_fault() -> None:
    (fault,) = watched(lambda x: _quiet(lambda: x @ x.bfloat16())).faults
    assert fault.startswith("mm: operands of torch.bfloat16 and torch.float32; at ")


def test_crops_placed_in_half_precision_are_a_fault() -> None:
    def crop(x: Tensor) -> None:
        grid = torch.zeros(1, 4, 4, 2, device="cuda", dtype=torch.bfloat16)
        with torch.autocast("cuda", torch.bfloat16):
            torch.nn.functional.grid_sample(x[None, None], grid, align_corners=False)

    (fault,) = watched(crop).faults
    assert "grid_sample: its grid is torch.bfloat16; expected torch.float32" in fault


def test_attention_that_no_fused_kernel_takes_is_a_fault() -> None:
    def attend(x: Tensor, last: int) -> None:
        q = torch.zeros(1, 2, 8, 16, device=x.device, dtype=torch.float16)
        if last != 1:
            q = q.transpose(2, 3).contiguous().transpose(2, 3)
        torch.nn.functional.scaled_dot_product_attention(q, q, q)

    assert not watched(lambda x: attend(x, 1)).faults
    (fault,) = watched(lambda x: attend(x, 8)).faults
    assert "last strides of query, key and value are [8, 8, 8]; fused kernels take 1" in fault


def test_a_tensor_left_on_the_cpu_raises() -> None:
    with pytest.raises(RuntimeError, match="cpu"):
        watched(lambda x: x + torch.ones(4, 4))


def test_a_table_on_the_cpu_that_the_card_indexes_is_a_fault() -> None:
    (fault,) = watched(lambda x: _quiet(lambda: torch.ones(4)[x[0].long()])).faults
    assert fault.startswith("index: a tensor on cpu is indexed by one on a GPU")


def test_a_card_that_is_full_says_so() -> None:
    with fake_cuda(memory=4096) as card:
        kept = torch.zeros(512, device="cuda")  # 2 KiB
        assert card.now == 2048
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1024, device="cuda")
        del kept
        assert card.now == 0 and card.peak == 2048


def test_gradients_are_those_of_the_graph_and_free_it() -> None:
    with fake_cuda() as card:
        x = torch.zeros(256, 256, device="cuda", requires_grad=True)
        y = (x.exp() * x).sum()
        held = card.now
        (gradient,) = torch.autograd.grad(y, x)
        assert gradient.shape == x.shape and gradient.device.type == "cuda"
        assert card.now < held + gradient.nbytes, "what was kept for the backward pass is freed"
        with pytest.raises(RuntimeError, match="a second time"):
            torch.autograd.grad(y, x)


FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a blocking copy": (lambda loss: loss + loss.new_zeros(1).cpu().to("cuda"), "copy cpu to cuda"),
    "a number read back": (lambda loss: loss * (1.0 if loss[0] else 0.0), "1 x a number; at "),
    "a tensor left on the CPU": (lambda loss: loss + torch.ones(len(loss)), "cuda:0 and cpu"),
    "a mixed product": (
        lambda loss: loss + (loss[None].bfloat16() @ loss[:, None])[0],
        "mm: operands of torch.bfloat16 and torch.float32",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_loss_fails_the_step(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put, said = FAULTS[fault]
    sound = guide.structure_loss
    monkeypatch.setattr(guide, "structure_loss", lambda *seen: put(sound(*seen)))
    with fake_cuda():
        engine = Engine(models_of(PRESET, "bf16", {}), PRESET, 1)
        try:
            amiss = watched_steps(engine, [tiny.request("both")], most=2).amiss()
        except RuntimeError as error:  # of mixed devices and types, as on a card
            amiss = [str(error)]
    assert said in "; ".join(amiss)


def _quiet(work: Callable[[], Any]) -> None:
    """Fake kernels refuse some of what is wrong, others let it pass: the watch sees both."""
    try:
        work()
    except RuntimeError:
        pass
