"""A TorchScript archive in OpenAI's form: a small CLIP-like tree of modules, traced and saved."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class _Block(nn.Module):
    """As OpenAI's, it keeps its mask as a plain attribute, which is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(4)
        self.attn_mask = torch.zeros(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln_1(x) + self.attn_mask.sum()


class Tree(nn.Module):
    """Convolution, batch norm, a block, a bare parameter, and a number kept as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.resblocks = nn.Sequential(_Block())
        self.text_projection = nn.Parameter(torch.randn(4, 2))
        self.register_buffer("input_resolution", torch.tensor(8))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.visual(x).mean((2, 3))[:, None].expand(-1, 3, -1)
        return self.resblocks(mean) @ self.text_projection + self.input_resolution


def save_archive(network: nn.Module, example: object, path: Path) -> Path:
    """Traces and saves; PyTorch calls that deprecated, and OpenAI's files stay what they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, example, check_trace=False).save(str(path))
    return path
