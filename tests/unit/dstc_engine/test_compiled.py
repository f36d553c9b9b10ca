"""Compiled networks: the same images, around the same weights; and what is missing is told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from dstc_engine.compiled import compiled
from dstc_engine.engine import Engine, translate
from dstc_engine.errors import PresetError
from dstc_engine.models import Models
from tests.unit.dstc_engine import tiny

# PyTorch's own, of a crop's gradient that its capture looks at.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf", "ignore::DeprecationWarning"
)


def calls(models: Models) -> list[bool]:
    networks = [models.unet, models.dino, models.clips[0].model.visual, models.arcface, models.vgg]
    return [n._compiled_call_impl is not None for n in networks if n is not None]


def test_graphs_are_captured_whole_and_say_the_same() -> None:
    # Without code generation, which takes minutes: what is asked is that graphs are captured.
    models = tiny.make_models()
    made = compiled(models, backend="aot_eager")
    row = tiny.request("both", 1)
    counters.clear()
    engines = [Engine(models, tiny.PRESET, 1, compiled=other) for other in (made, None)]
    ours, theirs = (next(translate(engine, [row])).image for engine in engines)
    # The three networks, and what is compiled to try the compiler out.
    assert counters["stats"]["unique_graphs"] >= 3 and not counters["graph_break"]
    assert ours is not None and theirs is not None
    assert np.abs(ours.astype(int) - theirs).max() <= 2
    assert calls(made) == [True] * 3 and calls(models) == [False] * 3


def test_weights_and_features_are_shared() -> None:
    models = tiny.make_models()
    made = compiled(models, backend="eager")
    ours, theirs = dict(made.unet.named_parameters()), dict(models.unet.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert made.features is models.features and made.clips[0].model.transformer is (
        models.clips[0].model.transformer
    )


def test_what_cannot_compile_is_told_at_once() -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler on this machine")

    with pytest.raises(PresetError, match="compile is 'default', and nothing .*no compiler on"):
        compiled(tiny.make_models(), backend=broken)  # type: ignore[arg-type]


def test_shapes_beyond_the_usual_eight_compile_in_the_thread_of_the_steps() -> None:
    graphs: list[int] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(len(inputs))
        return graph.forward

    models = tiny.make_models(dino=None, clips=())
    models.unet = nn.Linear(2, 2)  # type: ignore[assignment]  # a UNet takes seconds a shape
    made = compiled(models, backend=counted)  # type: ignore[arg-type]
    tried = len(graphs)

    def steps() -> list[int]:
        found = []
        for rows in range(1, 12):
            made.unet(torch.zeros(rows, 2))  # type: ignore[call-arg]
            found.append(len(graphs) - tried)
        return found

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(steps).result() == list(range(1, 12))
