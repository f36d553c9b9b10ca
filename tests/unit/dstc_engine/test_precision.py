"""Weights kept in half precision give what autocast gives, to the last bit; TF32 by name alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dstc_engine.models import Models
from dstc_engine.precision import PRECISIONS, autocast, is_emulated, keep_products_in, use_tf32
from tests.unit.dstc_engine import tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["unet", "vit", "clip"])
def test_the_same_products_as_autocast(kind: str, generator: torch.Generator) -> None:
    made = {"unet": tiny.make_unet, "vit": tiny.make_vit, "clip": lambda: tiny.make_clip().model}
    network = made[kind]()
    network = network.visual if kind == "clip" else network
    kept = copy.deepcopy(network)
    keep_products_in(torch.bfloat16, kept)
    # With a gradient, as in guidance: without one PyTorch's attention has a way past CPU autocast.
    x = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=generator).requires_grad_()
    times = (torch.full((2,), 500.0),) if kind == "unet" else ()
    with autocast(CPU, "bf16"):
        assert torch.equal(kept(x, *times), network(x, *times))


def test_norms_stay_float32() -> None:
    unet = tiny.make_unet()
    keep_products_in(torch.bfloat16, unet)
    for module in unet.modules():
        expected = torch.float32 if isinstance(module, nn.GroupNorm) else torch.bfloat16
        for parameter in module.parameters(recurse=False):
            assert parameter.dtype == expected, type(module)


def test_fp32_casts_nothing() -> None:
    with autocast(CPU, "fp32"):
        assert not torch.is_autocast_enabled("cpu")
    assert list(PRECISIONS) == ["fp32", "bf16", "fp16", "tf32"]


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_without_the_instructions_is_said(
    native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    Models(unet=tiny.make_unet(), dino=None, clips=(), precision="bf16")
    assert ("several times slower" in caplog.text) is not native
    caplog.clear()
    Models(unet=tiny.make_unet(), dino=None, clips=(), precision="fp32")
    assert not caplog.text
    assert not is_emulated(torch.device("cuda"), "bf16")


@pytest.fixture
def tf32_as_it_was() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Anywhere(nn.Module):
    """Says that it went where it was sent, without a device."""

    def to(self, *where: object, **options: object) -> Anywhere:
        return self


@pytest.mark.parametrize("precision", PRECISIONS)
def test_networks_on_a_gpu_take_tf32_by_name_alone(precision: str, tf32_as_it_was: None) -> None:
    use_tf32("fp32" if precision == "tf32" else "tf32")  # the other way round before
    tiny.make_models(
        unet=Anywhere(), dino=None, clips=(), device=torch.device("cuda"), precision=precision
    )
    is_taken = precision == "tf32"
    assert torch.backends.cuda.matmul.allow_tf32 is is_taken
    assert torch.backends.cudnn.allow_tf32 is is_taken
    # What PyTorch's compiler reads.
    assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if is_taken else "ieee")
    assert torch.backends.cudnn.conv.fp32_precision == ("tf32" if is_taken else "none")


def test_networks_on_a_cpu_leave_the_flags_alone(tf32_as_it_was: None) -> None:
    use_tf32("tf32")
    tiny.make_models(unet=Anywhere(), dino=None, clips=())
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    assert isinstance(autocast(CPU, "tf32"), contextlib.nullcontext)
