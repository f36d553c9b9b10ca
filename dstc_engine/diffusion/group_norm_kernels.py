"""Group norm, scale and shift, and SiLU in two passes over half-precision images: Triton kernels.

Forward reads an image twice and writes it once, backward reads image and gradient twice: 6 and 10
bytes an element, all sums in float32. Plain operations move 12 and 30, with a float32 copy 32 and
34 (forward, backward). Groups lie in memory one after another, so each is cut into chunks that are
summed apart (Chan et al. 1983, "Algorithms for Computing the Sample Variance", eq. 2.1) and joined
by whoever needs the sums: no atomics, so the same bits each time.

B images, C channels, G groups, M chunks of a group.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 8192  # elements that one program takes
_BLOCK = 1024  # elements that it holds at a time: eight a thread
# Multiply-adds of one rounding: Triton 3.9's default, which it warns of and means to change.
_OPTIONS = {"enable_fp_fusion": True}


@triton.jit
def _sum_moments(x, sums, size, CHUNK: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Mean, and squares of the distance from it, of one chunk of one group."""
    group = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * CHUNK
    count = 0.0
    mean = 0.0
    squares = 0.0
    for offset in range(0, tl.minimum(CHUNK, size - start), BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        inside = at < size
        value = tl.load(x + group * size + at, mask=inside, other=0.0).to(tl.float32)
        more = tl.sum(inside.to(tl.float32), 0)
        middle = tl.sum(value, 0) / more
        away = tl.where(inside, value - middle, 0.0)
        gap = middle - mean
        share = more / (count + more)
        squares += tl.sum(away * away, 0) + gap * gap * count * share
        mean += gap * share
        count += more
    out = sums + (group * tl.num_programs(1) + tl.program_id(1)) * 2
    tl.store(out, mean)
    tl.store(out + 1, squares)


@triton.jit
def _moments(sums, group, size, eps, chunks, CHUNK: tl.constexpr, MOST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Mean of a group and 1 over its deviation, from those of its chunks."""
    chunk = tl.arange(0, MOST)
    inside = chunk < chunks
    count = tl.where(inside, tl.minimum(size - chunk * CHUNK, CHUNK), 0).to(tl.float32)
    at = sums + (group * chunks + chunk) * 2
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + 1, mask=inside, other=0.0)
    mean = tl.sum(means * count, 0) / size
    gap = means - mean
    variance = (tl.sum(squares, 0) + tl.sum(gap * gap * count, 0)) / size
    return mean, 1 / tl.sqrt(variance + eps)


@triton.jit
def _affine(  # type: ignore[no-untyped-def]
    at, group, weight, bias, scale, shift, size, pixels, groups, stride,
    MODULATED: tl.constexpr,
):  # fmt: skip
    """What the channels of places in a group are multiplied by and moved by."""
    members = size // pixels
    channel = (group % groups) * members + tl.minimum(at, size - 1) // pixels
    gain = tl.load(weight + channel)
    offset = tl.load(bias + channel)
    if MODULATED:
        row = (group // groups) * stride + channel
        factor = 1 + tl.load(scale + row).to(tl.float32)
        gain = gain * factor
        offset = offset * factor + tl.load(shift + row).to(tl.float32)
    return gain, offset


@triton.jit
def _normalize(  # type: ignore[no-untyped-def]
    x, y, sums, weight, bias, scale, shift, size, pixels, groups, stride, eps, chunks,
    MODULATED: tl.constexpr, SILU: tl.constexpr, WHOLE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """y = silu(gain (x - mean) / deviation + offset) of one chunk."""
    group = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * CHUNK
    mean, inverse = _moments(sums, group, size, eps, chunks, CHUNK, MOST)
    for offset in range(0, tl.minimum(CHUNK, size - start), BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        inside = at < size
        # A block within one channel looks its weights up once.
        place = start + offset if WHOLE else at
        gain, moved = _affine(
            place, group, weight, bias, scale, shift, size, pixels, groups, stride, MODULATED
        )
        value = tl.load(x + group * size + at, mask=inside, other=0.0).to(tl.float32)
        value = (value - mean) * inverse * gain + moved
        if SILU:
            value = value * tl.sigmoid(value)
        tl.store(y + group * size + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _pulled(  # type: ignore[no-untyped-def]
    x, dy, place, at, group, mean, inverse, weight, bias, scale, shift, size, pixels, groups,
    stride, MODULATED: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """The normed values, and the gradient that reaches them."""
    inside = at < size
    gain, moved = _affine(
        place, group, weight, bias, scale, shift, size, pixels, groups, stride, MODULATED
    )
    value = tl.load(x + group * size + at, mask=inside, other=0.0).to(tl.float32)
    pull = tl.load(dy + group * size + at, mask=inside, other=0.0).to(tl.float32)
    normed = (value - mean) * inverse
    if SILU:
        said = normed * gain + moved
        gate = tl.sigmoid(said)
        pull = pull * gate * (1 + said * (1 - gate))
    return normed, pull * gain


@triton.jit
def _sum_pulls(  # type: ignore[no-untyped-def]
    x, dy, sums, pulls, weight, bias, scale, shift, size, pixels, groups, stride, eps, chunks,
    MODULATED: tl.constexpr, SILU: tl.constexpr, WHOLE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Sums over one chunk of the gradient, and of its product with the normed values."""
    group = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * CHUNK
    mean, inverse = _moments(sums, group, size, eps, chunks, CHUNK, MOST)
    first = 0.0
    second = 0.0
    for offset in range(0, tl.minimum(CHUNK, size - start), BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        place = start + offset if WHOLE else at
        normed, pull = _pulled(
            x, dy, place, at, group, mean, inverse, weight, bias, scale, shift, size, pixels,
            groups, stride, MODULATED, SILU,
        )  # fmt: skip
        first += tl.sum(pull, 0)
        second += tl.sum(pull * normed, 0)
    out = pulls + (group * chunks + tl.program_id(1)) * 2
    tl.store(out, first)
    tl.store(out + 1, second)


@triton.jit
def _pull_back(  # type: ignore[no-untyped-def]
    x, dy, dx, sums, pulls, weight, bias, scale, shift, size, pixels, groups, stride, eps, chunks,
    MODULATED: tl.constexpr, SILU: tl.constexpr, WHOLE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """dx of one chunk: the gradient without its mean and without its share along the image."""
    group = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * CHUNK
    mean, inverse = _moments(sums, group, size, eps, chunks, CHUNK, MOST)
    chunk = tl.arange(0, MOST)
    there = pulls + (group * chunks + chunk) * 2
    middle = tl.sum(tl.load(there, mask=chunk < chunks, other=0.0), 0) / size
    along = tl.sum(tl.load(there + 1, mask=chunk < chunks, other=0.0), 0) / size
    for offset in range(0, tl.minimum(CHUNK, size - start), BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        place = start + offset if WHOLE else at
        normed, pull = _pulled(
            x, dy, place, at, group, mean, inverse, weight, bias, scale, shift, size, pixels,
            groups, stride, MODULATED, SILU,
        )  # fmt: skip
        value = inverse * (pull - middle - normed * along)
        tl.store(dx + group * size + at, value.to(dx.dtype.element_ty), mask=at < size)


class FusedGroupNorm(torch.autograd.Function):
    """Group norm, then scale and shift, then SiLU, of images alone: weights get no gradient.

    Called as `apply(x, weight, bias, scale, shift, groups, eps, silu)`: x (B, C, *) half precision
    and contiguous, weight and bias (C,) float32, scale and shift (B, C) of any type with one
    stride, or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        """(B, C, *) to the same."""
        grid, size, chunks = _cut(x, groups)
        sums = x.new_empty((grid[0], chunks, 2), dtype=torch.float32)
        _sum_moments[grid](x, sums, size, CHUNK=_CHUNK, BLOCK=_BLOCK, **_OPTIONS)
        y = torch.empty_like(x)
        ctx.save_for_backward(x, sums, weight, bias, scale, shift)
        ctx.groups, ctx.eps, ctx.silu = groups, eps, silu
        how = _how(x, weight, bias, scale, shift, groups, eps, silu)
        _normalize[grid](x, y, sums, **how)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of x."""
        x, sums, weight, bias, scale, shift = ctx.saved_tensors
        dy = dy.contiguous()
        grid, _, _ = _cut(x, ctx.groups)
        how = _how(x, weight, bias, scale, shift, ctx.groups, ctx.eps, ctx.silu)
        pulls, dx = torch.empty_like(sums), torch.empty_like(x)
        _sum_pulls[grid](x, dy, sums, pulls, **how)
        _pull_back[grid](x, dy, dx, sums, pulls, **how)
        return dx, *(None,) * 7


def _cut(x: Tensor, groups: int) -> tuple[tuple[int, int], int, int]:
    """Programs by group and chunk; elements of a group; its chunks."""
    size = x[0].numel() // groups
    chunks = triton.cdiv(size, _CHUNK)
    return (len(x) * groups, chunks), size, chunks


def _how(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> dict[str, Any]:
    """What all kernels but the first are told."""
    _, size, chunks = _cut(x, groups)
    pixels = x[0, 0].numel()
    modulated = scale is not None and shift is not None
    if scale is not None and shift is not None:
        assert scale.stride() == shift.stride() and scale.stride(1) == 1
    return dict(
        weight=weight,
        bias=bias,
        scale=scale if modulated else weight,
        shift=shift if modulated else weight,
        size=size,
        pixels=pixels,
        groups=groups,
        stride=scale.stride(0) if scale is not None else 0,
        eps=eps,
        chunks=chunks,
        MODULATED=modulated,
        SILU=silu,
        WHOLE=pixels % _BLOCK == 0,
        CHUNK=_CHUNK,
        BLOCK=_BLOCK,
        MOST=triton.next_power_of_2(chunks),
        **_OPTIONS,
    )
