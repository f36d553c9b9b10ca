"""The denoiser: the UNet of ADM (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs", section 3).

Module names give exactly the tensor names of the published checkpoints, so those load strictly.
B pictures, C channels, H x W pixels, E width of the time embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstc_engine.attention import attend
from dstc_engine.errors import WeightsError

# Channel multipliers that the original falls back to when a configuration names none.
DEFAULT_MULTIPLIERS = {
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    64: (1.0, 2.0, 3.0, 4.0),
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What decides the shape of a UNet, named as in the original's command-line flags.

    Attributes:
        image_size: pixels of the side. channels: width of the first level.
        multipliers: width of each level over `channels`; each after the first halves the side.
        res_blocks: residual blocks per level on the way down (one more on the way up).
        attention_resolutions: sides in pixels at which blocks are followed by attention.
        head_channels: width of one attention head; -1 takes `heads` heads at every width.
        classes: number of classes of a class-conditional model, else None.
    """

    image_size: int
    channels: int
    multipliers: tuple[float, ...]
    res_blocks: int
    attention_resolutions: tuple[int, ...]
    head_channels: int = 64
    heads: int = 4
    classes: int | None = None
    dropout: float = 0.0

    @classmethod
    def from_flags(cls, flags: dict[str, object]) -> UNetConfig:
        """From the flags of an original checkpoint.

        Raises:
            WeightsError: flags ask for a variant that no published checkpoint of this family uses.
        """
        for flag, only in (
            ("use_scale_shift_norm", True),
            ("resblock_updown", True),
            ("learn_sigma", True),
            ("use_new_attention_order", False),
        ):
            if flags.get(flag, only) != only:
                raise WeightsError(f"UNet flag {flag} is {flags[flag]!r}; expected {only!r}")
        size = int(str(flags["image_size"]))
        multipliers = str(flags.get("channel_mult", ""))
        if not multipliers and size not in DEFAULT_MULTIPLIERS:
            raise WeightsError(f"UNet flag channel_mult is empty; size {size} has no default")
        return cls(
            image_size=size,
            channels=int(str(flags["num_channels"])),
            multipliers=tuple(float(m) for m in multipliers.split(","))
            if multipliers
            else DEFAULT_MULTIPLIERS[size],
            res_blocks=int(str(flags["num_res_blocks"])),
            attention_resolutions=tuple(
                int(r) for r in str(flags["attention_resolutions"]).split(",")
            ),
            head_channels=int(str(flags.get("num_head_channels", -1))),
            heads=int(str(flags.get("num_heads", 4))),
            classes=1000 if flags.get("class_cond") else None,
            dropout=float(str(flags.get("dropout", 0.0))),
        )


def time_embedding(times: Tensor, width: int) -> Tensor:
    """Sinusoids of original time: (B,) float in 0 .. 999 to (B, width), cosines first."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=times.device) / half
    )
    angles = times.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


M = TypeVar("M", bound=nn.Module)


class GroupNorm32(nn.GroupNorm):
    """32 groups, summed in float32 whatever the activations are: in bf16 a group loses its mean."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        # On CPUs the kernel itself sums in float32 and takes float32 weights beside bf16 pictures;
        # on GPUs it wants one type for all.
        if x.dtype == torch.float32 or x.device.type == "cpu":
            return super().forward(x)
        normed = F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


class ResBlock(nn.Module):
    """A residual block with scale-and-shift conditioning on time; may halve or double the side.

    (B, C_in, H, W), (B, E) -> (B, C_out, H', W').
    """

    def __init__(
        self, c_in: int, c_out: int, embedding: int, dropout: float, resize: str = "none"
    ) -> None:
        super().__init__()
        self.resize = resize
        self.in_layers = nn.Sequential(
            GroupNorm32(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * c_out))
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
        h = self.in_layers[1](self.in_layers[0](x))
        h, x = self._resized(h), self._resized(x)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(embedding).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[3](
            self.out_layers[2](self.out_layers[1](h))
        )

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        if self.resize == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, (B, C, H, W) to the same.

    The published weights hold q, k, v of one head next to each other, head after head.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        qkv = self.qkv(self.norm(flat))
        # (B, heads, 3, C/heads, HW) -> three of (B, heads, HW, C/heads)
        q, k, v = (
            qkv.reshape(batch, self.heads, 3, channels // self.heads, height * width)
            .permute(2, 0, 1, 4, 3)
            .unbind(0)
        )
        attended = attend(q, k, v)
        attended = attended.transpose(2, 3).reshape(batch, channels, height * width)
        return (flat + self.proj_out(attended)).reshape(x.shape)


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
    """Predicts noise and the variance interpolation from a noisy picture.

    Args:
        config: its shape.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, embedding = config.channels, 4 * config.channels
        widths = [int(base * m) for m in config.multipliers]
        attended = {config.image_size // r for r in config.attention_resolutions}

        def block(c_in: int, c_out: int, resize: str = "none") -> ResBlock:
            return ResBlock(c_in, c_out, embedding, config.dropout, resize)

        def attention(channels: int) -> AttentionBlock:
            heads = config.heads
            if config.head_channels != -1:
                heads = channels // config.head_channels
            return AttentionBlock(channels, heads)

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
                self.input_blocks.append(Stage(block(channels, channels, "down")))
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
                    layers.append(attention(channels))
                if level and i == config.res_blocks:
                    layers.append(block(channels, channels, "up"))
                    shrink //= 2
                self.output_blocks.append(Stage(*layers))

        self.out = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), _zeroed(nn.Conv2d(channels, 6, 3, padding=1))
        )

    def forward(self, x: Tensor, times: Tensor, classes: Tensor | None = None) -> Tensor:
        """One denoising look.

        Args:
            x: (B, 3, H, W) noisy pictures, H and W the configured size.
            times: (B,) original times, 0 .. 999, as float.
            classes: (B,) int64, for a class-conditional model alone.

        Returns:
            (B, 6, H, W): channels 0-2 the noise, 3-5 the variance interpolation v, about [-1, 1].
        """
        embedding = self.time_embed(
            time_embedding(times, self.config.channels).to(next(self.parameters()).dtype)
        )
        if self.config.classes is not None:
            assert classes is not None, "a class-conditional UNet needs classes"
            embedding = embedding + self.label_emb(classes)
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)

    def layout(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order of the state dict."""
        for name, tensor in self.state_dict().items():
            yield name, tuple(tensor.shape)
