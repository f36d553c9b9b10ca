"""Tells which part of a guided step runs now, and how long each takes.

The engine itself knows nothing of it: for the time of a measurement its functions are wrapped and
its networks watched. A phase is what a name says and nothing that another name says, so that all
phases together are the step:

    X forward      of a network, normalisation of its input included
    X backward     of its gradient, from where the losses have ended to its input
    crops          drawing the crops out of the images, and the way back through it
    losses         all that is left of `guidance.guide`: losses, views, sums, casts
    arithmetic     posterior, adding noise, going back
    noise          random numbers
    bookkeeping    all that is left of `Engine.step`: slots, tables, transfers
    conditions     encoding a row that enters, its networks included
    finish         from x0 to the uint8 image of a row that leaves
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import dstc_engine.engine
import dstc_engine.guidance.guide
from benchmarks.device_rates import synchronize
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest

BOOKKEEPING = "bookkeeping"
ONCE_PER_ROW = ("conditions", "finish")


class Phases:
    """The phase that runs now, and the seconds of each, device work included."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.now = BOOKKEEPING
        self._device = device
        self._sealed = False
        self._since = 0.0

    def reset(self) -> None:
        """Starts anew, in bookkeeping."""
        self.seconds.clear()
        self.now, self._since = BOOKKEEPING, self._clock()

    def stop(self) -> dict[str, float]:
        """The seconds of each phase since `reset`."""
        self.switch(BOOKKEEPING)
        return dict(self.seconds)

    def switch(self, name: str) -> None:
        """From here on it is this phase."""
        if self._sealed:
            return
        now = self._clock()
        self.seconds[self.now] += now - self._since
        self.now, self._since = name, now

    @contextlib.contextmanager
    def inside(self, name: str, sealed: bool = False) -> Iterator[None]:
        """This phase for the block, and the one before it again afterwards.

        Args:
            sealed: whatever runs in the block belongs to it.
        """
        if self._sealed:
            yield
            return
        before = self.now
        self.switch(name)
        self._sealed = sealed
        try:
            yield
        finally:
            self._sealed = False
            self.switch(before)

    def wrapped(
        self, function: Callable[..., Any], name: str, sealed: bool = False
    ) -> Callable[..., Any]:
        """The function, as a phase."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.inside(name, sealed):
                return function(*arguments, **options)

        return call

    def _clock(self) -> float:
        synchronize(self._device)
        return time.perf_counter()


class WatchedNoise:
    """A row's noise, whose drawing is a phase."""

    def __init__(self, noise: Noise, phases: Phases) -> None:
        self._phases = phases
        self.chain = phases.wrapped(noise.chain, "noise")
        self.mask = phases.wrapped(noise.mask, "noise")
        self.crops = phases.wrapped(noise.crops, "noise")
        self.prior_class = phases.wrapped(noise.prior_class, "noise")


def watched_noise(phases: Phases, preset: Preset) -> Callable[[TranslationRequest], Noise]:
    """What an engine takes as `make_noise`."""
    return lambda request: WatchedNoise(RowNoise.of(request.seed, preset), phases)


def networks_of(models: Models, preset: Preset) -> dict[str, nn.Module]:
    """What is watched, by name; of a CLIP model, the tower that sees images."""
    found: dict[str, nn.Module | None] = {"UNet": models.unet, "DINO": models.dino}
    # A preset's list may be longer than what was loaded: no CLIP at all.
    found |= {
        name: clip.model.visual for name, clip in zip(preset.clips, models.clips, strict=False)
    }
    found |= {"ArcFace": models.arcface, "VGG": models.vgg}
    return {name: network for name, network in found.items() if network is not None}


@contextlib.contextmanager
def watching(models: Models, preset: Preset, phases: Phases) -> Iterator[None]:
    """Tells `phases` what an engine of these models does, while the block runs."""
    engine, guidance = dstc_engine.engine, dstc_engine.guidance.guide
    with contextlib.ExitStack() as stack:
        for module, function, name, sealed in (
            (engine, "guide", "losses", False),
            (engine, "ddpm_step", "arithmetic", False),
            (engine, "ddim_step", "arithmetic", False),
            (engine, "spherical_step", "arithmetic", False),
            (engine, "add_noise", "arithmetic", False),
            (engine, "go_back", "arithmetic", False),
            (engine, "encode_conditions", "conditions", True),
            (engine, "finish_image", "finish", True),
            (guidance, "apply_crops", "crops", False),
            (torch.autograd, "grad", "losses", False),
        ):
            wrapped = phases.wrapped(getattr(module, function), name, sealed)
            stack.enter_context(mock.patch.object(module, function, wrapped))
        for name, network in networks_of(models, preset).items():
            after = "crops" if name in preset.clips else "losses"
            stack.enter_context(_watching_network(network, name, after, phases))
        yield


@contextlib.contextmanager
def _watching_network(network: nn.Module, name: str, after: str, phases: Phases) -> Iterator[None]:
    """Forward by the module's hooks; backward by those of the tensors that leave and enter it.

    Args:
        after: the phase that the gradient goes on to from the network's input.
    """
    before: list[str] = []

    def entered(module: nn.Module, given: tuple[Any, ...]) -> None:
        before.append(phases.now)
        phases.switch(f"{name} forward")

    def left(module: nn.Module, given: tuple[Any, ...], output: object) -> None:
        phases.switch(before.pop())
        if not torch.is_grad_enabled():
            return
        for tensor in _tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: phases.switch(f"{name} backward"))
        if given[0].requires_grad:
            given[0].register_hook(lambda gradient: phases.switch(after))

    hooks = [
        network.register_forward_pre_hook(entered),
        network.register_forward_hook(left),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tensors_in(output: object) -> list[Tensor]:
    """Of what a network gives: a tensor, a mapping, or a record of tensors."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else vars(output).values()
    return [value for value in values if isinstance(value, Tensor)]
