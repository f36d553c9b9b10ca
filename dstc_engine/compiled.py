"""Networks that PyTorch compiles for the shapes of a step (torch.compile).

Pointwise work (norms, activations, scale and shift, casts) is fused into few kernels. Products and
convolutions stay those of the libraries. The first step of an engine compiles. PyTorch's own CUDA
graphs are left out: what a graph gave is overwritten when it runs again, which several groups of
rows do within one step. `graphs` has ones whose outputs are copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from dstc_engine.encoders.clip import Clip
from dstc_engine.errors import PresetError
from dstc_engine.models import Models

# Of an engine; the last is no mode of torch.compile, see `graphs`.
MODES = ("no", "default", "max-autotune-no-cudagraphs", "graphs")

# All slots, half of them after memory ended, a group of guided rows and one of plain ones: a few
# shapes for each network. Past its limit PyTorch would go on without compiling, and say nothing.
_COMPILED_SHAPES = 64

Network = TypeVar("Network", bound=nn.Module)


def compiled(models: Models, mode: str = "default", backend: str = "inductor") -> Models:
    """The same networks, compiled when a step first uses them.

    Weights and what is remembered of images are shared with `models`, which stay as they are:
    conditions are encoded by those, one row at a time, and would compile every network once more.
    On a GPU the shared weights of convolutions are laid out channels last, for both.

    Args:
        mode: "default" or "max-autotune-no-cudagraphs". backend: of torch.compile.

    Raises:
        PresetError: nothing can be compiled here, for want of a C++ compiler or Triton.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, _COMPILED_SHAPES)
    options = {"mode": None if mode == "default" else mode, "backend": backend, "dynamic": False}
    _try_out(models.device, mode, backend)

    def made(network: Network) -> Network:
        twin = _twin(network)
        twin.compile(**options)
        if models.device.type == "cuda":
            twin.to(memory_format=torch.channels_last)
        return twin

    return with_networks(models, made)


def with_networks(models: Models, made: Callable[[Any], Any]) -> Models:
    """The same models with another network in the place of each; texts are embedded as before.

    Args:
        made: of a network, the one that steps go through.
    """

    def made_clip(clip: Clip) -> Clip:
        twin = _twin(clip)
        twin.model = _twin(clip.model)
        twin.model.visual = made(clip.model.visual)
        return twin

    found = copy.copy(models)
    found.unet = made(models.unet)
    found.dino = made(models.dino) if models.dino is not None else None
    found.clips = tuple(made_clip(clip) for clip in models.clips)
    found.arcface = made(models.arcface) if models.arcface is not None else None
    found.vgg = made(models.vgg) if models.vgg is not None else None
    return found


def _twin(network: Network) -> Network:
    """Another module around the same parameters, buffers and parts."""
    twin = copy.copy(network)
    twin._modules = dict(network._modules)
    return twin


def _try_out(device: torch.device, mode: str, backend: str) -> None:
    # Found out in the engine's first step, it would fail row after row.
    try:
        torch.compile(lambda x: (x * 2 + 1).relu(), dynamic=False, backend=backend)(
            torch.ones(8, device=device)
        )
    except Exception as error:  # compilers fail in a dozen unrelated types
        reason = " ".join(str(error).split("\n")[:2])
        needs = "Triton" if device.type == "cuda" else "a C++ compiler"
        raise PresetError(
            f"compile is {mode!r}, and nothing can be compiled here ({type(error).__name__}: "
            f"{reason}); expected {needs}, or 'no'"
        ) from error
