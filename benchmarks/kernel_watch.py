"""What a step asks of a GPU, kernel by kernel: waits, types of products, attention.

    with KernelWatch() as watch:
        engine.step()
    watch.faults  # what no GPU code should do, each with its place
    watch.waits   # what makes the CPU wait for the GPU, by place

Runs on real CUDA tensors and on fake ones (`fake_cuda`) alike.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dstc_engine.engine import Engine
from dstc_engine.request import TranslationRequest

_ROOT = Path(__file__).resolve().parent.parent
# Frames of these are named as the place of what is found.
_OURS = (f"{_ROOT}/", "/open_clip/", "/timm/")
# Kernels whose floating-point operands have one type on a GPU; fake ones let others pass.
_ONE_TYPE = frozenset(
    "mm addmm bmm baddbmm addmv mv dot convolution convolution_backward native_group_norm "
    "native_group_norm_backward native_layer_norm grid_sampler_2d grid_sampler_2d_backward "
    "_prelu_kernel _softmax_backward_data".split()
)
_PRODUCTS = frozenset("mm addmm bmm baddbmm addmv mv dot convolution".split())
# The CPU must know how many there are, or what they are.
_WAITING = frozenset(
    "nonzero masked_select equal _unique2 unique_dim unique_consecutive nonzero_numpy".split()
)
_INDEXING = frozenset("index index_put index_put_ _index_put_impl_ _unsafe_index".split())


@functools.cache
def name_of(function: Any) -> str:
    """The name of a kernel, without its overload: "mm", "_to_copy"."""
    return str(function._schema.name).removeprefix("aten::")


def tensors_in(values: Any) -> list[Tensor]:
    """Tensors among arguments or results of a kernel, those of lists included."""
    if isinstance(values, Tensor):
        return [values]
    found: list[Tensor] = []
    if isinstance(values, list | tuple):
        for value in values:
            found += tensors_in(value)
    elif isinstance(values, dict):
        found = tensors_in(list(values.values()))
    return found


class KernelWatch(TorchDispatchMode):
    """Notes what kernels are asked for while its `with` block runs, backward ones included.

    Attributes:
        faults: operands of several types or devices, crops placed in half precision, and
            attention that no fused kernel takes.
        waits: times that the CPU waited for the GPU, by what for and where.
        uploads: copies from the CPU that nobody waits for.
        products: by (kernel, type). attention: by (shape, type). fused: of its kernels.
        kernels: that made a tensor on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.waits: Counter[str] = Counter()
        self.uploads = 0
        self.products: Counter[tuple[str, torch.dtype]] = Counter()
        self.attention: Counter[tuple[tuple[int, ...], torch.dtype]] = Counter()
        self.fused = self.kernels = 0
        self._patches: list[Any] = []

    def __enter__(self) -> Self:
        functional = torch.nn.functional
        attention, sample = functional.scaled_dot_product_attention, functional.grid_sample

        @functools.wraps(attention)
        def watched(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
            self._see_attention(query, key, value)
            return attention(query, key, value, *rest, **named)

        @functools.wraps(sample)
        def sampled(images: Tensor, grid: Tensor, *rest: Any, **named: Any) -> Tensor:
            # Autocast gives both one type before a kernel sees them: places are lost by then.
            if grid.dtype != torch.float32:
                self._fault(f"grid_sample: its grid is {grid.dtype}; expected torch.float32")
            return sample(images, grid, *rest, **named)

        self._patches = [
            mock.patch.object(functional, "scaled_dot_product_attention", watched),
            mock.patch.object(functional, "grid_sample", sampled),
        ]
        for owner, name in ((torch.cuda, "synchronize"), (torch.cuda.Event, "synchronize")):
            self._patches.append(mock.patch.object(owner, name, self._waiting(owner, name)))
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        for patch in reversed(self._patches):
            patch.stop()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = name_of(function)
        given = tensors_in(args) + tensors_in(kwargs)
        on_gpu = any(tensor.device.type == "cuda" for tensor in given)
        if on_gpu:
            self._see_operands(name, given)
            self._see_wait(name, args, given)
        if name.startswith("_scaled_dot_product") and not name.endswith("backward"):
            self.fused += 1
        made = function(*args, **kwargs)
        results = tensors_in(made)
        if name in ("_to_copy", "copy_"):
            self._see_copy(name, args, kwargs, results[0])
        if any(tensor.device.type == "cuda" for tensor in results):
            self.kernels += not function.is_view
        return made

    def _see_operands(self, name: str, given: Sequence[Tensor]) -> None:
        if name in _INDEXING and given[0].device.type != "cuda":
            self._fault(f"{name}: a tensor on {given[0].device} is indexed by one on a GPU")
        if name not in ("copy_", "_to_copy") and name not in _INDEXING:
            # Numbers, of no dimension, may lie on the CPU: they are passed by value.
            places = {tensor.device for tensor in given if tensor.dim()}
            if len(places) > 1:
                self._fault(f"{name}: operands on {_listed(places)}")
        if name in _ONE_TYPE:
            kinds = {tensor.dtype for tensor in given if tensor.dtype.is_floating_point}
            if len(kinds) > 1:
                self._fault(f"{name}: operands of {_listed(kinds)}")
            if name in _PRODUCTS:
                self.products[name, given[0].dtype] += 1

    def _see_wait(self, name: str, args: Any, given: Sequence[Tensor]) -> None:
        if name == "_local_scalar_dense":
            self._wait("a number")
        elif name in _WAITING:
            self._wait(name)
        elif name in _INDEXING:
            for index in tensors_in(args[1]):
                if index.dtype in (torch.bool, torch.uint8):
                    self._wait(f"{name} by a mask")
                elif index.device.type == "cpu" and index.dim():
                    self._wait(f"{name} by places on the CPU")

    def _see_copy(self, name: str, args: Any, kwargs: Any, target: Tensor) -> None:
        source = args[0] if name == "_to_copy" else args[1]
        ends = source.device.type, target.device.type
        if ends[0] == ends[1] or "cuda" not in ends:
            return
        flag = args[2] if name == "copy_" and len(args) > 2 else False
        host = source if ends[0] == "cpu" else target
        if kwargs.get("non_blocking", flag) and host.is_pinned():
            self.uploads += ends[1] == "cuda"
        else:
            self._wait(f"copy {ends[0]} to {ends[1]}")

    def _see_attention(self, *operands: Tensor) -> None:
        query = operands[0]
        if query.device.type != "cuda":
            return
        strides = [tensor.stride(-1) for tensor in operands]
        if strides != [1, 1, 1]:
            self._fault(
                f"attention {tuple(query.shape)}: last strides of query, key and value are "
                f"{strides}; fused kernels take 1"
            )
        kinds = {tensor.dtype for tensor in operands}
        if len(kinds) > 1 and not torch.is_autocast_enabled("cuda"):
            self._fault(f"attention: operands of {_listed(kinds)}")
        self.attention[tuple(query.shape), query.dtype] += 1

    def _waiting(self, owner: Any, name: str) -> Any:
        function = getattr(owner, name)

        @functools.wraps(function)
        def waits(*args: Any, **kwargs: Any) -> Any:
            self._wait(f"{owner.__name__.rpartition('.')[2]}.{name}")
            return function(*args, **kwargs)

        return waits

    def _fault(self, what: str) -> None:
        self.faults.append(f"{what}; at {_place()}")

    def _wait(self, what: str) -> None:
        self.waits[f"{what}; at {_place()}"] += 1


def _listed(values: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, values)))


def _place(most: int = 3) -> str:
    """The innermost lines of the engine and its networks that are at work."""
    lines: list[str] = []
    frame: Any = sys._getframe(1)
    while frame is not None and len(lines) < most:
        file = frame.f_code.co_filename
        if file != __file__ and any(part in file for part in _OURS):
            parts = Path(file).parts[-2:]
            lines.append(f"{'/'.join(parts)}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines) or "?"


@dataclass(frozen=True)
class WatchedSteps:
    """What the steps of a full table did.

    Attributes:
        faults: of all steps, each once. waits: of each step, by what for and where.
        entered, ended: rows that entered their slots in a step, and that left them.
        kernels, fused, attention, products: of the last step.
    """

    faults: tuple[str, ...]
    waits: tuple[Counter[str], ...]
    entered: tuple[int, ...]
    ended: tuple[int, ...]
    kernels: int
    fused: int
    attention: Counter[Any]
    products: Counter[Any]

    def amiss(self) -> list[str]:
        """Faults, and steps without rows that come or go that waited other than once."""
        found = list(self.faults)
        moves = zip(self.waits, self.entered, self.ended, strict=True)
        for number, (waits, entered, ended) in enumerate(moves):
            if not entered and not ended and sum(waits.values()) != 1:
                listed = "; ".join(f"{times} x {what}" for what, times in waits.most_common())
                found.append(f"step {number} waited {sum(waits.values())} times: {listed}")
        return found


def watched_steps(
    engine: Engine, rows: Sequence[TranslationRequest], most: int = 1000
) -> WatchedSteps:
    """Steps an engine until its rows have ended, `most` steps at most.

    Args:
        rows: no more than there are slots, so that all enter in the first step.
    """
    for row in rows:
        engine.add(row)
    waits: list[Counter[str]] = []
    entered, ended = [], []
    faults: dict[str, None] = {}
    watch = KernelWatch()
    while not engine.is_finished and len(waits) < most:
        watch = KernelWatch()
        with watch:
            left = engine.step()
        faults |= dict.fromkeys(watch.faults)
        waits.append(watch.waits)
        entered.append(0 if len(waits) > 1 else len(rows))
        ended.append(len(left))
    return WatchedSteps(
        faults=tuple(faults),
        waits=tuple(waits),
        entered=tuple(entered),
        ended=tuple(ended),
        kernels=watch.kernels,
        fused=watch.fused,
        attention=watch.attention,
        products=watch.products,
    )
