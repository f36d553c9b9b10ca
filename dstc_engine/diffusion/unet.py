"""The denoiser: the UNet of ADM (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs", section 3).

Module names give exactly the tensor names of the published checkpoints, so those load strictly.
B images, C channels, H x W pixels, E width of the time embedding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dstc_engine.attention import attend
from dstc_engine.diffusion.group_norm import group_norm
from dstc_engine.diffusion.unet_config import GROUPS, UNetConfig

__all__ = ["UNet", "UNetConfig"]


def time_embedding(times: Tensor, width: int) -> Tensor:
    """Sinusoids of time: (B,) float, about 0 .. 999, to (B, width), cosines first."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=times.device) / half
    )
    angles = times.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


M = TypeVar("M", bound=nn.Module)


class GroupNorm32(nn.GroupNorm):
    """32 groups, summed in float32 whatever the activations are: see `group_norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(
        self,
        x: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        silu: bool = False,
    ) -> Tensor:
        """(B, C, *) to the same; (B, C) scale and shift, then SiLU, may follow."""
        constants = (self.weight, self.bias, self.num_groups, self.eps)
        return group_norm(x, *constants, scale, shift, silu)


class ResBlock(nn.Module):
    """Residual block with the time as `embedding`; may halve ("down") or double ("up") the side.

    (B, C_in, H, W), (B, E) -> (B, C_out, H', W'). With `scale_shift` time scales and shifts the
    second norm; without, it is added to what that norm sees.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        dropout: float,
        resize: str = "none",
        scale_shift: bool = True,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            GroupNorm32(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        width = 2 * c_out if scale_shift else c_out
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, width))
        self.out_layers = nn.Sequential(
            GroupNorm32(c_out),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1)),
        )
        self.skip_connection: nn.Module = (
            nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        # The norms do the SiLU behind them, too, so the modules for it only keep their numbers.
        h = self.in_layers[0](x, silu=True)
        h, x = self._resized(h), self._resized(x)
        h = self.in_layers[2](h)
        embedded = self.emb_layers(embedding).to(h.dtype)
        if self.scale_shift:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.out_layers[0](h, scale, shift, silu=True)
        else:
            h = self.out_layers[0](h + embedded[:, :, None, None], silu=True)
        return self.skip_connection(x) + self.out_layers[3](self.out_layers[2](h))

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        if self.resize == "up":
            return _doubled(x)
        return x


def _doubled(x: Tensor) -> Tensor:
    # Autocast would give float32, though copies are exact in any type; what adds to it, and the
    # next norm, would then move twice the bytes.
    half = x.dtype != torch.float32
    with torch.autocast(x.device.type, enabled=False) if half else contextlib.nullcontext():
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Module):
    """Halves the side with a convolution, (B, C, H, W) to (B, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the side, then smooths with a convolution, (B, C, H, W) to (B, C, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_doubled(x))


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, (B, C, H, W) to the same.

    Most published weights hold q, k, v of one head next to each other, head after head; those of
    the `new_order` (ADM's 64-px model) hold q of all heads, then k, then v.
    """

    def __init__(self, channels: int, heads: int, new_order: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Pixels as rows: fused kernels take q, k and v only where a head's channels lie side by
        # side. Channels as rows, as the Conv1d has them, would leave those a stride of HW apart.
        tokens = self.norm(x).flatten(2).transpose(1, 2).contiguous()
        qkv = _by_pixel(self.qkv, tokens)
        # To (3, B, heads, HW, C/heads), and apart into q, k, v.
        size = channels // self.heads
        if self.new_order:
            split = qkv.reshape(batch, -1, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        else:
            split = qkv.reshape(batch, -1, self.heads, 3, size).permute(3, 0, 2, 1, 4)
        q, k, v = split.unbind(0)
        attended = attend(q, k, v).transpose(1, 2).reshape(batch, -1, channels)
        change = _by_pixel(self.proj_out, attended).transpose(1, 2)
        return x + change.reshape(x.shape)


def _by_pixel(convolution: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A convolution of width 1 over (B, HW, C) instead of (B, C, HW): one product of matrices."""
    return F.linear(tokens, convolution.weight[:, :, 0], convolution.bias)


def _zeroed(module: M) -> M:
    # Each residual branch starts as zero, so a fresh network is the identity and trains stably.
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Stage(nn.Sequential):
    """Layers in a row, of which residual blocks also take the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """Predicts noise, and with `learn_sigma` the variance interpolation, from a noisy image.

    Args:
        config: its shape.

    Attributes:
        checkpointing: keep the activations between stages alone, and compute those within anew
            when the gradient needs them (Chen et al. 2016): the same numbers, memory of a few
            stages instead of all, and a second pass forward. "large" does so for the two largest
            sides, which hold most of the bytes.
    """

    checkpointing: bool | Literal["large"]

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        base, embedding = config.channels, 4 * config.channels
        widths, attended = config.widths, config.attended

        def block(c_in: int, c_out: int, resize: str = "none") -> ResBlock:
            scale_shift = config.scale_shift_norm
            return ResBlock(c_in, c_out, embedding, config.dropout, resize, scale_shift)

        def attention(channels: int, up: bool = False) -> AttentionBlock:
            heads = config.heads_of(channels, up)
            return AttentionBlock(channels, heads, config.new_attention_order)

        def halved(channels: int) -> nn.Module:
            blocks = config.resblock_updown
            return block(channels, channels, "down") if blocks else Downsample(channels)

        def doubled(channels: int) -> nn.Module:
            blocks = config.resblock_updown
            return block(channels, channels, "up") if blocks else Upsample(channels)

        self.time_embed = nn.Sequential(
            nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if config.classes is not None:
            self.label_emb = nn.Embedding(config.classes, embedding)

        channels = widths[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(3, channels, 3, padding=1))])
        skips = [channels]
        shrink = 1
        for level, width in enumerate(widths):
            for _ in range(config.res_blocks):
                layers: list[nn.Module] = [block(channels, width)]
                channels = width
                if shrink in attended:
                    layers.append(attention(channels))
                self.input_blocks.append(Stage(*layers))
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(Stage(halved(channels)))
                skips.append(channels)
                shrink *= 2

        self.middle_block = Stage(
            block(channels, channels), attention(channels), block(channels, channels)
        )

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(config.res_blocks + 1):
                layers = [block(channels + skips.pop(), width)]
                channels = width
                if shrink in attended:
                    layers.append(attention(channels, up=True))
                if level and i == config.res_blocks:
                    layers.append(doubled(channels))
                    shrink //= 2
                self.output_blocks.append(Stage(*layers))

        said = 6 if config.learn_sigma else 3
        self.out = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), _zeroed(nn.Conv2d(channels, said, 3, padding=1))
        )

    def forward(self, x: Tensor, times: Tensor, classes: Tensor | None = None) -> Tensor:
        """Predicts the noise of a batch of noisy images.

        Args:
            x: (B, 3, H, W) noisy images, H and W the configured size.
            times: (B,) times as the network was trained with them, mostly 0 .. 999, as float.
            classes: (B,) int64, for a class-conditional model alone.

        Returns:
            (B, 6, H, W): channels 0-2 the noise, 3-5 the variance interpolation v, about [-1, 1];
            (B, 3, H, W), the noise alone, without `learn_sigma`.
        """
        embedding = self.time_embed(
            time_embedding(times, self.config.channels).to(next(self.parameters()).dtype)
        )
        if self.config.classes is not None:
            assert classes is not None, "a class-conditional UNet needs classes"
            embedding = embedding + self.label_emb(classes)
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            x = self._through(stage, x, embedding)
            skips.append(x)
        x = self._through(self.middle_block, x, embedding)
        for stage in self.output_blocks:
            x = self._through(stage, torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out[2](self.out[0](x, silu=True))

    def _through(self, stage: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        if self._is_done_again(x) and torch.is_grad_enabled() and x.requires_grad:
            # Nothing here draws random numbers in eval mode, so none need to be drawn again.
            again: Tensor = checkpoint(
                stage, x, embedding, use_reentrant=False, preserve_rng_state=False
            )
            return again
        through: Tensor = stage(x, embedding)
        return through

    def _is_done_again(self, x: Tensor) -> bool:
        if self.checkpointing == "large":
            return x.shape[-1] * 2 >= self.config.image_size
        return self.checkpointing

    def layout(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order of the state dict."""
        for name, tensor in self.state_dict().items():
            yield name, tuple(tensor.shape)
