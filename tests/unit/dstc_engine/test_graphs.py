"""Captured networks: the same bits, though a graph overwrites what it gave before.

`Stand` takes the place of CUDA's capture on a CPU: a function with buffers of its own, which each
call reads and overwrites as a replayed graph does. No graph has run on a card here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dstc_engine import graphs
from dstc_engine.engine import Engine, translate
from dstc_engine.errors import PresetError
from dstc_engine.graphs import MOST_GRAPHS, Function, Graphed, forget_graphs, graphed
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import Translation
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import KINDS, PRESET, assert_same, request

SOME_GUIDED = dataclasses.replace(PRESET, guidance_every=2)


class Stand:
    """Captures a function into static buffers; notes what is captured and replayed."""

    def __init__(self) -> None:
        self.captured: list[tuple[str, tuple[int, ...]]] = []
        self.replayed: list[tuple[str, int, str]] = []

    def __call__(self, function: Function, samples: tuple[Tensor, ...], pool: str) -> Function:
        number = len(self.captured)
        self.captured.append((pool, tuple(samples[0].shape)))
        outputs = [output.detach() for output in function(*samples)]
        gradients = [torch.zeros_like(s) if s.requires_grad else None for s in samples]

        def note(kind: str) -> None:
            self.replayed.append((pool, number, kind))

        graph = _Graph(function, samples, outputs, gradients, note, torch.is_grad_enabled())
        return lambda *given: _Replay.apply(graph, *given)


@dataclasses.dataclass(eq=False)
class _Graph:
    function: Function
    inputs: tuple[Tensor, ...]
    outputs: list[Tensor]
    gradients: list[Tensor | None]
    note: Callable[[str], None]
    has_gradient: bool


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: _Graph, *given: Tensor) -> tuple[Tensor, ...]:
        graph.note("forward")
        ctx.graph = graph
        for own, tensor in zip(graph.inputs, given, strict=True):
            own.copy_(tensor)
        # PyTorch's attention takes other kernels where no gradient is wanted.
        with torch.set_grad_enabled(graph.has_gradient):
            outputs = graph.function(*graph.inputs)
        for own, output in zip(graph.outputs, outputs, strict=True):
            own.copy_(output)
        return tuple(output.detach() for output in graph.outputs)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        graph: _Graph = ctx.graph
        graph.note("backward")
        # From the inputs that lie in the buffers now: activations of an earlier call are gone.
        with torch.enable_grad():
            outputs = graph.function(*graph.inputs)
        wanted = [tensor for tensor in graph.inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, above, allow_unused=True))
        for own in graph.gradients:
            if own is not None:
                own.copy_(next(found))
        return (None, *(None if own is None else own.detach() for own in graph.gradients))


def ended(models: Models, preset: Preset, compiled: Models | None) -> dict[str, Translation]:
    # Five slots: groups of one row, which go through the same graph one after another.
    rows = [request(KINDS[n % 3], 60 + n) for n in range(5)]
    engine = Engine(models, preset, 5, compiled=compiled)
    return {t.id: t for t in translate(engine, rows)}


@pytest.mark.parametrize("preset", [PRESET, SOME_GUIDED], ids=["all guided", "some guided"])
def test_images_and_losses_are_the_same_bits(preset: Preset, models: Models) -> None:
    stand = Stand()
    ours = ended(models, preset, graphed(models, stand))
    theirs = ended(models, preset, None)
    for key, translation in theirs.items():
        assert_same(ours[key], translation)
    # One graph for each network, two where the prior is also asked about plain rows.
    pools = [pool for pool, _ in stand.captured]
    assert pools.count("prior") == (2 if preset is SOME_GUIDED else 1)
    assert pools.count("others") == 2
    # Networks that share memory: each has its gradient before another one is asked.
    shared = [(n, kind) for pool, n, kind in stand.replayed if pool == "others"]
    assert shared[::2] == [(n, "forward") for n, _ in shared[::2]]
    assert shared[1::2] == [(n, "backward") for n, _ in shared[::2]]
    assert len(shared) > 20


def test_without_copies_the_next_replay_changes_what_was_kept(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ended(models, PRESET, None)
    monkeypatch.setattr(graphs, "_copied", lambda tensor: tensor)
    ours = ended(models, PRESET, graphed(models, Stand()))
    assert all(tiny.trace(ours[key]) != tiny.trace(theirs[key]) for key in theirs)


class Doubled(nn.Module):
    """A network that counts how often it is run itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, other: Tensor | None = None) -> dict[str, Tensor]:
        self.calls += 1
        return {"twice": 2 * x, "square": x * x if other is None else x * other}


def test_each_shape_kind_and_need_has_a_graph_and_others_run_as_they_are() -> None:
    stand, network = Stand(), Doubled()
    made = Graphed(network, stand, "pool")
    one, two = torch.ones(1), torch.ones(2)
    kept = [made(one)["twice"], made(3 * one)["twice"]]
    assert [float(t) for t in kept] == [2, 6] and len(stand.captured) == 1
    made(one, one)
    made(one.double())
    with_gradient = made(two.requires_grad_())
    with torch.no_grad():
        assert not made(two)["twice"].requires_grad  # a shape more than there are graphs
    assert len(stand.captured) == MOST_GRAPHS == 4
    (gradient,) = torch.autograd.grad(with_gradient["square"].sum(), two)
    assert gradient.tolist() == [2, 2]
    calls, replayed = network.calls, len(stand.replayed)
    assert made(torch.ones(7))["twice"].tolist() == [2] * 7
    assert network.calls == calls + 1 and len(stand.replayed) == replayed


def test_forgotten_graphs_are_captured_again_for_the_new_table(models: Models) -> None:
    stand = Stand()
    made = graphed(models, stand)
    row = request("text", 3)
    for slots in (4, 2):  # as when memory ends and slots are halved
        forget_graphs(made)
        stand.captured.clear()
        (ours,) = translate(Engine(models, PRESET, slots, compiled=made), [row])
        (theirs,) = translate(Engine(models, PRESET, slots), [row])
        assert_same(ours, theirs)
        assert ("prior", (slots, 3, tiny.SIZE, tiny.SIZE)) in stand.captured
        assert len(stand.captured) == 3
    forget_graphs(models)  # which have none
    forget_graphs(None)


def test_a_capture_that_runs_out_of_memory_leaves_nothing_behind() -> None:
    stand = Stand()

    def full(*_: object) -> Function:
        raise torch.OutOfMemoryError("CUDA out of memory")

    made = Graphed(Doubled(), full, "pool")
    with pytest.raises(torch.OutOfMemoryError):
        made(torch.ones(1))
    made._capture = stand
    assert float(made(torch.ones(1))["twice"]) == 2


def test_networks_on_a_cpu_are_refused(models: Models) -> None:
    with pytest.raises(PresetError, match="compile is 'graphs', and .* on cpu; expected a GPU"):
        graphed(models)
