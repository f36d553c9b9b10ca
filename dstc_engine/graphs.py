"""Networks whose kernels are captured once and then replayed in one call (CUDA graphs).

A step of few slots is thousands of small kernels, and asking for one takes a CPU longer than a GPU
takes to run it. A graph is asked for as a whole. It reads and writes the same memory at each
replay, so that here

- each network has one graph for each shape, kind and need of a gradient of its inputs;
- inputs are copied into a graph's own buffers, outputs and gradients out of them: what one group of
  rows got stays as it is when the next group goes through the same graph;
- the prior has a pool of memory of its own, since its activations wait for their gradient while the
  other networks run. Those share one: each has its gradient before the next one is asked;
- graphs belong to an engine's table: another number of slots begins without any.

Written without a GPU: tests prove the above with a stand-in that overwrites its buffers as a graph
does, and nothing of it has run on a card.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dstc_engine.compiled import compiled, with_networks
from dstc_engine.errors import PresetError
from dstc_engine.models import Models

# A table of slots has two shapes for the prior, guided rows and plain ones, and one for others.
MOST_GRAPHS = 4

# Of tensors to tensors, which may lie in buffers that the next call overwrites.
Function = Callable[..., tuple[Tensor, ...]]


class Capture(Protocol):
    """What captures a function."""

    def __call__(self, function: Function, samples: tuple[Tensor, ...], pool: str) -> Function:
        """The function as a graph, differentiable in what of `samples` requires a gradient.

        Args:
            function: of as many tensors as there are samples.
            samples: of the inputs' shapes and kinds; become the graph's own buffers.
            pool: of memory; a name.
        """


class CudaCapture:
    """`torch.cuda.make_graphed_callables`, with pools of memory by name."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = {}

    def __call__(self, function: Function, samples: tuple[Tensor, ...], pool: str) -> Function:
        if pool not in self._pools:
            self._pools[pool] = torch.cuda.graph_pool_handle()
        made: Any = torch.cuda.make_graphed_callables(
            function, samples, allow_unused_input=True, pool=self._pools[pool]
        )
        graph: Function = made
        return graph


class Graphed(nn.Module):
    """A network that is replayed for the shapes it was captured with.

    Shapes are captured when they are first seen; beyond `MOST_GRAPHS` the network runs as it is.

    Args:
        network: of tensors, or None, to a tensor, or tensors in a dict or a dataclass.
        capture: what captures it. pool: of memory.
    """

    def __init__(self, network: nn.Module, capture: Capture, pool: str) -> None:
        super().__init__()
        self.network = network
        self._capture, self._pool = capture, pool
        self._graphs: dict[Hashable, tuple[Function, Callable[[Sequence[Tensor]], Any]]] = {}

    def forward(self, *inputs: Tensor | None) -> Any:
        """As the network's own."""
        key = _key_of(inputs)
        if key not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:
                return self.network(*inputs)
            self._graphs[key] = self._captured(inputs)
        graph, gather = self._graphs[key]
        given = [_with_copied_gradient(i) for i in inputs if i is not None]
        return gather([_copied(output) for output in graph(*given)])

    def forget(self) -> None:
        """Lets go of all graphs and their memory."""
        self._graphs.clear()

    def _captured(
        self, inputs: Sequence[Tensor | None]
    ) -> tuple[Function, Callable[[Sequence[Tensor]], Any]]:
        found = [i for i in inputs if i is not None]
        device, dtype = found[0].device.type, _autocast_dtype(found[0])
        gather: Callable[[Sequence[Tensor]], Any] | None = None

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            nonlocal gather
            left = iter(tensors)
            filled = [None if i is None else next(left) for i in inputs]
            # Casts are captured with the rest: one that autocast remembers would be freed.
            with torch.autocast(device, dtype, enabled=dtype is not None, cache_enabled=False):
                output = self.network(*filled)
            parts, gather = _parts(output)
            return tuple(parts)

        needs = torch.is_grad_enabled()
        samples = tuple(i.detach().clone().requires_grad_(needs and i.requires_grad) for i in found)
        inputs = [None if i is None else i.detach() for i in inputs]
        # Gradients are taken outside of autocast, as without graphs.
        with torch.autocast(device, enabled=False):
            graph = self._capture(function, samples, self._pool)
        assert gather is not None, "the function was captured without being called"
        return graph, gather


def graphed(models: Models, capture: Capture | None = None) -> Models:
    """The same networks, captured for the shapes of a step when it first uses them.

    Weights are shared with `models`, which stay as they are. What is captured is let go by
    `forget_graphs`.

    Args:
        capture: None is that of CUDA.

    Raises:
        PresetError: the models are not on a GPU.
    """
    if capture is None:
        if models.device.type != "cuda":
            raise PresetError(
                f"compile is 'graphs', and the networks are on {models.device}; expected a GPU, "
                "or 'no'"
            )
        capture = CudaCapture()
    found = with_networks(models, lambda network: Graphed(network, capture, "others"))
    found.unet = Graphed(models.unet, capture, "prior")  # type: ignore[assignment]
    return found


def made_for_steps(models: Models, mode: str) -> Models | None:
    """What steps go through by a mode of `compiled.MODES`: None is the networks as they are.

    Raises:
        PresetError: nothing can be compiled or captured here.
    """
    if mode == "no":
        return None
    return graphed(models) if mode == "graphs" else compiled(models, mode)


def forget_graphs(models: Models | None) -> None:
    """Lets go of the graphs that steps of these models were captured in, before other shapes come.

    Also those of an engine whose memory ended: half its slots would find it full.
    """
    if models is None:
        return
    clips = [clip.model.visual for clip in models.clips]
    networks = (models.unet, models.dino, *clips, models.arcface, models.vgg)
    graphs = [network for network in networks if isinstance(network, Graphed)]
    for network in graphs:
        network.forget()
    if graphs:
        gc.collect()  # functions of PyTorch's, which refer to themselves, hold the buffers


class _CopyGradient(torch.autograd.Function):
    """The tensor itself; its gradient is a copy."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _copied(gradients[0])


def _with_copied_gradient(tensor: Tensor) -> Tensor:
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return tensor
    same: Tensor = _CopyGradient.apply(tensor)
    return same


def _copied(tensor: Tensor) -> Tensor:
    # With the strides that it has, which decide the kernels that use it: DINO's keys are a third of
    # what one product gives, and a packed copy of them changes last bits of what follows.
    same = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    return same.copy_(tensor)


def _key_of(inputs: Sequence[Tensor | None]) -> Hashable:
    needs = torch.is_grad_enabled()
    kinds = [
        None if i is None else (i.shape, i.dtype, i.device, needs and i.requires_grad)
        for i in inputs
    ]
    first = next(i for i in inputs if i is not None)
    return (*kinds, _autocast_dtype(first))


def _autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _parts(output: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a network's output, and what puts such tensors together again."""
    if isinstance(output, Tensor):
        return [output], lambda parts: parts[0]
    if isinstance(output, dict):
        names = list(output)
        return list(output.values()), lambda parts: dict(zip(names, parts, strict=True))
    fields = [field.name for field in dataclasses.fields(output)]
    kind = type(output)
    found = [getattr(output, name) for name in fields]
    return found, lambda parts: kind(**dict(zip(fields, parts, strict=True)))
