"""CUDA tensors without a GPU and without values, so that a step runs as it would on a card.

    with fake_cuda(memory=24 * 2**30) as card:
        models = random_models(preset, "cuda", "bf16")
        ...
        card.peak  # bytes

Shapes, types, devices and memory layouts are PyTorch's own (`FakeTensorMode`): mixed devices raise,
autocast casts, kernels allocate what they would. Numbers do not exist: whatever is read back is a
constant. What PyTorch would ask of a CUDA driver is answered here:

- the backward pass: the C++ engine asks the driver for its streams, so that `_grad` walks the graph
  in Python, node after node, and lets go of what a node has saved when it is done, as the engine
  does;
- attention: which kernel is taken is asked of the card, so that `_attention` takes the one that
  strides and types allow;
- pinned memory, memory statistics, events and support for bf16.

Not modeled: fragments of the allocator, workspaces of cuBLAS and cuDNN, compiled code.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.cuda.amp.common
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.kernel_watch import name_of, tensors_in

# The allocator's smallest piece.
_PIECE = 512
# What reading a number back gives: finite, and true where it is a flag.
_VALUE = 0.001


class FakeCard(TorchDispatchMode):
    """One card: its memory, and the pinned memory of its host.

    Args:
        memory: bytes; beyond them a kernel raises torch.OutOfMemoryError.

    Attributes:
        now, peak: bytes of live tensors, at this moment and at most since `reset_peak`.
    """

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.memory = memory
        self.now = self.peak = 0
        self._pinned: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._storages: dict[int, weakref.ref[Any]] = {}  # by their identity

    def reset_peak(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = name_of(function)
        if name == "is_pinned":
            return args[0] in self._pinned
        if name in ("pin_memory", "_pin_memory"):
            pinned = torch.ops.aten.clone.default(args[0])
            self._pinned[pinned] = True
            return pinned
        if name == "_local_scalar_dense" and getattr(args[0], "constant", None) is None:
            return _VALUE if args[0].dtype.is_floating_point else 1
        made = function(*args, **kwargs)
        if name == "_to_copy" and kwargs.get("non_blocking") and made.device.type == "cpu":
            self._pinned[made] = True  # PyTorch takes page-locked memory for it
        for tensor in tensors_in(made):
            if tensor.device.type == "cuda":
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        known = self._storages.get(id(storage))
        if known is not None and known() is storage:
            return
        size = -(-storage.nbytes() // _PIECE) * _PIECE
        self._storages[id(storage)] = weakref.ref(storage)
        self.now += size
        weakref.finalize(storage, self._free, size)
        if self.now > self.memory:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory: {self.now:,} of {self.memory:,} bytes (a fake card)"
            )
        self.peak = max(self.peak, self.now)

    def _free(self, size: int) -> None:
        self.now -= size


@contextlib.contextmanager
def fake_cuda(memory: int = 1 << 50) -> Iterator[FakeCard]:
    """Makes "cuda" a card of so many bytes inside the block; tensors made there hold no values."""
    card = FakeCard(memory)
    graph = _Graph()
    patches: list[tuple[Any, dict[str, Any]]] = [
        (FakeTensor, {"tolist": _tolist, "numpy": _numpy}),
        (torch.nn.Module, {"_apply": _apply}),
        (torch.autograd, {"grad": graph.grad}),
        (torch.nn.functional, {"scaled_dot_product_attention": _attention}),
        (torch.cuda.amp.common, {"amp_definitely_not_available": lambda: False}),
        (
            torch.cuda,
            {
                "is_bf16_supported": lambda *_, **__: True,
                "synchronize": lambda *_: None,
                "empty_cache": lambda: None,
                "Event": _Event,
                "mem_get_info": lambda *_: (card.memory - card.now, card.memory),
                "memory_reserved": lambda *_: card.now,
                "memory_allocated": lambda *_: card.now,
                "reset_peak_memory_stats": lambda *_: card.reset_peak(),
                "max_memory_reserved": lambda *_: card.peak,
                "max_memory_allocated": lambda *_: card.peak,
            },
        ),
    ]
    with contextlib.ExitStack() as stack:
        for owner, values in patches:
            for name, value in values.items():
                stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(card)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(graph.pack, graph.unpack))
        yield card


class _Event:
    """What marks a place in a stream, of which there is one that never runs."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


def _tolist(self: FakeTensor) -> Any:
    return np.full(tuple(self.cpu().shape), _VALUE).tolist()  # the copy is what a real one makes


def _numpy(self: FakeTensor, **_: Any) -> Any:
    if self.device.type == "cuda":
        raise TypeError(f"numpy() of a tensor on {self.device}; expected one on the CPU")
    return np.zeros(tuple(self.shape), dtype=str(self.dtype).removeprefix("torch."))


def _apply(self: torch.nn.Module, function: Any, recurse: bool = True) -> torch.nn.Module:
    # PyTorch's own swaps fake tensors for others in place, which weak references do not survive.
    for module in self.children():
        _apply(module, function)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                value = function(parameter)
            self._parameters[name] = torch.nn.Parameter(value, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = function(buffer)
    return self


_real_attention = torch.nn.functional.scaled_dot_product_attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As PyTorch chooses on a card of 2020 or later: flash, memory-efficient, or plain products."""
    if query.device.type != "cuda":
        return _real_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    q, k, v = query, key, value
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
    if attn_mask is None and all(tensor.stride(-1) == 1 for tensor in (q, k, v)):
        if q.dtype == torch.float32:
            efficient = torch.ops.aten._scaled_dot_product_efficient_attention
            return efficient(q, k, v, None, True, dropout_p, is_causal, scale=scale)[0]
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
    # The plain way, in float32 whatever is given.
    with torch.autocast("cuda", enabled=False):
        weights = q.float() * (scale or q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
        if attn_mask is not None:
            weights = weights + attn_mask
        return (weights.softmax(-1) @ v.float()).to(q.dtype)


class _Saved:
    """A tensor that a node keeps for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor


class _Graph:
    """`torch.autograd.grad` in Python."""

    def __init__(self) -> None:
        self._task = 0
        self._used: list[_Saved] | None = None

    def pack(self, tensor: Tensor) -> _Saved:
        return _Saved(tensor)

    def unpack(self, saved: _Saved) -> Tensor:
        if saved.tensor is None:
            raise RuntimeError("backward through the graph a second time; its tensors are freed")
        if self._used is not None:
            self._used.append(saved)
        return saved.tensor

    def grad(
        self,
        outputs: Tensor | Sequence[Tensor],
        inputs: Tensor | Sequence[Tensor],
        grad_outputs: Any = None,
        **_: Any,
    ) -> tuple[Tensor | None, ...]:
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if grad_outputs is None:
            grad_outputs = [torch.ones_like(output) for output in outputs]
        self._task += 1
        task = self._task
        # Checkpointing computes a part of the graph anew once for each pass, by this number.
        number = mock.patch.object(torch._C, "_current_graph_task_id", lambda: task)
        with torch.no_grad(), number:
            return self._walk(outputs, inputs, list(grad_outputs))

    def _walk(
        self, outputs: list[Tensor], inputs: list[Tensor], gradients: list[Tensor]
    ) -> tuple[Tensor | None, ...]:
        held: dict[Any, list[Tensor | None]] = {}
        found: dict[int, Tensor | None] = {}

        def put(node: Any, place: int, gradient: Tensor) -> None:
            expected = node._input_metadata[place]
            if tuple(gradient.shape) != tuple(expected.shape):
                gradient = gradient.sum_to_size(tuple(expected.shape))
            if gradient.device.type != expected.device.type:
                raise RuntimeError(
                    f"a gradient is on {gradient.device}; expected {expected.device} at {node}"
                )
            gradient = gradient.to(expected.dtype)
            slot = held.setdefault(node, [None] * len(node._input_metadata))
            before = slot[place]
            slot[place] = gradient if before is None else before + gradient

        roots = list(dict.fromkeys(output.grad_fn for output in outputs))
        waiting = _uses(roots)
        for output, gradient in zip(outputs, gradients, strict=True):
            put(output.grad_fn, output.output_nr, gradient)
        del gradients
        ready = [root for root in roots if not waiting[root]]
        while ready:
            node = ready.pop()
            given = held.pop(node, [None] * len(node._input_metadata))
            if type(node).__name__ == "AccumulateGrad":
                found[id(node.variable)] = given[0]
                continue
            followers = node.next_functions
            made: Any = [None] * len(followers)
            if any(gradient is not None for gradient in given):
                made = self._through(node, given)
            del given
            for number, (follower, place) in enumerate(followers):
                if follower is None:
                    continue
                if made[number] is not None:
                    put(follower, place, made[number])
                waiting[follower] -= 1
                if not waiting[follower]:
                    ready.append(follower)
            del made
        return tuple(found.get(id(tensor)) for tensor in inputs)

    def _through(self, node: Any, given: list[Tensor | None]) -> list[Tensor | None]:
        before, self._used = self._used, []
        try:
            made = (node if callable(node) else node.apply)(*given)
            for saved in self._used:
                saved.tensor = None
        finally:
            self._used = before
        return list(made) if isinstance(made, tuple | list) else [made]


def _uses(roots: Sequence[Any]) -> Counter[Any]:
    """How many edges of the graph lead to each node."""
    uses: Counter[Any] = Counter()
    seen, stack = set(roots), list(roots)
    while stack:
        for follower, _ in stack.pop().next_functions:
            if follower is None:
                continue
            uses[follower] += 1
            if follower not in seen:
                seen.add(follower)
                stack.append(follower)
    return uses
