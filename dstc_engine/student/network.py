"""The student's network: a residual U-Net from a content to its translation, told which look.

B images of S x S pixels, F numbers that describe a look (`looks.py`), E width of its embedding.

Convolutions as in Ronneberger et al. 2015 ("U-Net"); the look scales and shifts what GroupNorm
normalizes, as Perez et al. 2018 ("FiLM") and the ADM UNet do with their conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstc_engine.errors import WeightsError

_GROUPS = 8
# The deepest level sees images of about so many pixels, from where a 3 x 3 kernel reaches far.
_DEEPEST = 16


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Sizes of a student.

    Attributes:
        image_size: S, the preset's.
        features: F, numbers that describe a look. looks: how many it was trained on.
        channels: of the first level, a multiple of 8. multipliers: of each level's channels.
        embedding: E, width of a look's embedding.

    Raises:
        WeightsError: channels, levels or sizes that cannot be built.
    """

    image_size: int
    features: int
    looks: int
    channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4)
    embedding: int = 64

    def __post_init__(self) -> None:
        numbers = (self.image_size, self.features, self.looks, self.channels, self.embedding)
        if not all(isinstance(n, int) and n > 0 for n in (*numbers, *self.multipliers)):
            raise WeightsError(f"student: {self}; expected whole numbers above 0")
        if self.channels % _GROUPS:
            raise WeightsError(
                f"student: channels is {self.channels}; expected a multiple of {_GROUPS}"
            )
        step = 2 ** (len(self.multipliers) - 1)
        if not self.multipliers or self.image_size % step:
            raise WeightsError(
                f"student: image_size is {self.image_size}; expected a multiple of {step} for "
                f"{len(self.multipliers)} levels"
            )

    @classmethod
    def of(cls, fields: Mapping[str, Any], place: str) -> StudentConfig:
        """The sizes that a description tells.

        Args:
            fields: its `architecture`. place: how errors name it.

        Raises:
            WeightsError: a size is missing, unknown, or cannot be built.
        """
        sizes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        try:
            return cls(**sizes)
        except (WeightsError, TypeError, ValueError) as error:
            raise WeightsError(f"{place}: {error}") from error


def usual_multipliers(image_size: int) -> tuple[int, ...]:
    """Levels down to about 16 pixels: (1, 2, 4) at 64 pixels, (1, 2, 4, 4, 4) at 256."""
    levels = 1
    while image_size % 2**levels == 0 and image_size // 2**levels >= _DEEPEST:
        levels += 1
    return tuple(min(2**level, 4) for level in range(max(2, levels)))


class _Block(nn.Module):
    """Two convolutions beside a short cut; the look scales and shifts before each."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.look = nn.Linear(embedding, 2 * (inputs + outputs))
        self._sizes = [inputs, inputs, outputs, outputs]
        nn.init.zeros_(self.look.weight)  # at first, all looks are one
        nn.init.zeros_(self.look.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """(B, C, H, W), and (B, 2(C + C')) from `look`, to (B, C', H, W)."""
        parts = torch.split(told[:, :, None, None], self._sizes, dim=1)
        scale1, shift1, scale2, shift2 = parts
        y = self.conv1(F.silu(self.norm1(x) * (1 + scale1) + shift1))
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale2) + shift2))
        out: Tensor = self.shortcut(x) + y
        return out


class StudentNetwork(nn.Module):
    """Content and look to image; untrained, it gives the content back.

    Args:
        config: its sizes.

    Attributes:
        looks: (L, F) float32, what describes the looks it was trained on; kept with its weights.

    Example:
        network = StudentNetwork(StudentConfig(image_size=64, features=194, looks=1))
        images = network(contents, network.looks.expand(len(contents), -1))
    """

    looks: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("looks", torch.zeros(config.looks, config.features))
        width = config.embedding
        self.embed = nn.Sequential(
            nn.Linear(config.features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        sizes = [config.channels * factor for factor in config.multipliers]
        self.enter = nn.Conv2d(3, sizes[0], 3, padding=1)
        above = [sizes[0], *sizes[:-1]]
        self.down = nn.ModuleList(
            _Block(inputs, outputs, width) for inputs, outputs in zip(above, sizes, strict=True)
        )
        self.middle = _Block(sizes[-1], sizes[-1], width)
        self.up = nn.ModuleList(
            _Block(sizes[level + 1] + sizes[level], sizes[level], width)
            for level in reversed(range(len(sizes) - 1))
        )
        self.leave = nn.Conv2d(sizes[0], 3, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, contents: Tensor, looks: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] and (B, F) to (B, 3, S, S), about [-1, 1].

        Contents of another size raise; the caller fits them.
        """
        return self.render(contents, self.modulate(looks))

    def modulate(self, looks: Tensor) -> Tensor:
        """(B, F) to (B, M): what all blocks are told of the looks."""
        # Unit vectors of hundreds of numbers: as they are, the first layer would hardly see them.
        embedding = self.embed(looks * looks.shape[1] ** 0.5)
        return torch.cat([block.look(embedding) for block in self._blocks], dim=1)

    def render(self, contents: Tensor, modulation: Tensor) -> Tensor:
        """(B, 3, S, S) and (B, M) to (B, 3, S, S)."""
        widths = [block.look.out_features for block in self._blocks]
        told = iter(torch.split(modulation, widths, dim=1))
        x = self.enter(contents)
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, next(told))
            kept.append(x)
        x = self.middle(kept.pop(), next(told))
        for block in self.up:
            x = F.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, kept.pop()], dim=1), next(told))
        change: Tensor = self.leave(F.silu(x))
        return contents + change

    @property
    def _blocks(self) -> list[Any]:
        return [*self.down, self.middle, *self.up]
