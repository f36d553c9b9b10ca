"""Group norm, then scale and shift by time, then SiLU: the step between two convolutions of a UNet.

All three are one affine map per channel of an image, once the moments of its group are known. Where
nothing but images needs a gradient, half-precision images on a GPU are never copied to float32:
`group_norm_kernels` does it in two passes, and without Triton plain operations do.

B images, C channels, G groups.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """silu(norm(x) (1 + scale) + shift), summed in float32 whatever x is: bf16 would lose a mean.

    Args:
        x: (B, C, *). weight, bias: (C,) of the norm, float32.
        scale, shift: (B, C), or neither. silu: whether SiLU follows.

    Returns:
        (B, C, *) of x's type.
    """
    constants = [t for t in (weight, bias, scale, shift) if t is not None]
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in constants)
    if x.device.type != "cuda" or x.dtype not in _HALF:
        normed = _by_pytorch(x, weight, bias, groups, eps, scale, shift)
    elif trains or torch.compiler.is_compiling():
        # Compilers fuse the casts into what is around them; on GPUs the norm wants one type for
        # all, and its own sums would be rounded to bf16.
        normed = _by_pytorch(x.float(), weight, bias, groups, eps, scale, shift).to(x.dtype)
    elif type(x) is Tensor and x.is_contiguous() and kernels_run(x.device, x.dtype):
        from dstc_engine.diffusion.group_norm_kernels import FusedGroupNorm

        return FusedGroupNorm.apply(x, weight, bias, scale, shift, groups, eps, silu)
    else:
        gain, offset = _folded(weight, bias, scale, shift)
        normed = HalfGroupNorm.apply(x, gain, offset, groups, eps)
    return F.silu(normed) if silu else normed


def _folded(
    weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Two affine maps as one, (B or 1, C) float32 each: what to multiply by, and what to add."""
    if scale is None or shift is None:
        return weight[None], bias[None]
    factor = 1 + scale.float()
    return weight * factor, torch.addcmul(shift.float(), bias, factor)


def _by_pytorch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    if scale is None or shift is None:
        return F.group_norm(x, groups, weight, bias, eps)
    if torch.compiler.is_compiling() or not x.is_contiguous():
        wide = (*scale.shape, *(1,) * (x.dim() - 2))
        normed = F.group_norm(x, groups, weight, bias, eps)
        return normed * (1 + scale.view(wide)) + shift.view(wide)
    # All images as one of B C channels: its affine map is then one of each image.
    gain, offset = _folded(weight, bias, scale, shift)
    batch = len(x)
    one = x.reshape(1, -1, *x.shape[2:])
    normed = F.group_norm(one, batch * groups, gain.flatten(), offset.flatten(), eps)
    return normed.reshape(x.shape)


class HalfGroupNorm(torch.autograd.Function):
    """Group norm of half-precision images in plain operations, without a copy in float32.

    Called as `apply(x, gain, offset, groups, eps)`: x (B, C, *) in any memory format, gain and
    offset (B or 1, C) float32; these get no gradient. What reads half precision and float32 writes
    half precision through `out=`, and casts within its kernel on a GPU.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float
    ) -> Tensor:
        """(B, C, *) to the same."""
        parts = _by_group(x, groups)  # (B, G, C/G, *)
        places = tuple(range(2, parts.dim()))
        mean = parts.mean(places, keepdim=True, dtype=torch.float32)
        inverse = torch.empty_like(mean)
        torch.var(parts, places, correction=0, keepdim=True, out=inverse)
        inverse.add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, mean, inverse)
        factor = inverse * _apart(gain, mean)
        moved = torch.addcmul(_apart(offset, mean), mean, factor, value=-1)
        y = torch.empty_like(x)
        torch.addcmul(moved, parts, factor, out=_by_group(y, groups))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """dx = (gain dy - its mean - normed x times their mean product) / deviation."""
        x, gain, mean, inverse = ctx.saved_tensors
        groups = mean.shape[1]
        gain = _apart(gain, mean)
        dy, parts = _by_group(dy, groups), _by_group(x, groups)
        dx = torch.empty_like(x)
        normed = _by_group(dx, groups)  # and, in place, what becomes of it
        torch.addcmul(-mean * inverse, parts, inverse, out=normed)

        def mean_over_group(of: Tensor) -> Tensor:
            sums = of.sum(tuple(range(3, of.dim())), keepdim=True, dtype=torch.float32)
            return (sums * gain).mean(2, keepdim=True) / parts[0, 0, 0].numel()

        middle, along = mean_over_group(dy), mean_over_group(dy * normed)
        torch.addcmul(-middle * inverse, normed, -along * inverse, out=normed)
        torch.addcmul(normed, dy, gain * inverse, out=normed)
        return dx, None, None, None, None


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(B, C, *) to (B, G, C/G, *), a view."""
    return x.view(x.shape[0], groups, -1, *x.shape[2:])


def _apart(of_channels: Tensor, of_groups: Tensor) -> Tensor:
    """(B or 1, C) by group, with the dimensions that moments of groups have."""
    by_group = _by_group(of_channels, of_groups.shape[1])
    return by_group.view(*by_group.shape, *(1,) * (of_groups.dim() - 3))


@functools.cache
def kernels_run(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton's kernels run on this device and say what plain operations say; asked once."""
    if not torch.cuda.is_available():
        return False
    try:
        from dstc_engine.diffusion.group_norm_kernels import FusedGroupNorm

        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            # Several chunks, the last not full; blocks within a channel, and across channels.
            for side in (96, 80):
                _compare(FusedGroupNorm, side, device, dtype)
    except Exception as error:  # compilers fail in a dozen unrelated types
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        logging.getLogger(__name__).warning(
            "group norm runs in plain operations on %s: Triton's kernels failed (%s)",
            *(device, reason),
        )
        return False
    return True


def _compare(fused: Any, side: int, device: torch.device, dtype: torch.dtype) -> None:
    places = torch.arange(2 * 64 * side**2, device=device).view(2, 64, side, side)
    x, dy = ((places * rate).sin().to(dtype) for rate in (1.3, 2.1))  # as good as noise
    x.requires_grad_()
    weight = torch.linspace(-1, 2, 64, device=device)
    scale = torch.linspace(-1, 2, 128, device=device).view(2, 64)
    ours = fused.apply(x, weight, weight, scale, scale, 32, 1e-5, True)
    plain = F.silu(HalfGroupNorm.apply(x, *_folded(weight, weight, scale, scale), 32, 1e-5))
    backward = [torch.autograd.grad(y, x, dy)[0] for y in (ours, plain)]
    for one, other in ((ours, plain), backward):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)
