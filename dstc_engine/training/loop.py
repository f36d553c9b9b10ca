"""The training loop: `fit` trains any network by its `Recipe`, and goes on where it was stopped.

It is plain PyTorch and runs on any one machine; `World` is how Ray Train (dstc/train.py) gives it
several.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dstc_engine.precision import is_emulated
from dstc_engine.training.checkpoint import load_checkpoint, save_checkpoint
from dstc_engine.training.draws import threads_for, with_batches
from dstc_engine.training.initial import begin
from dstc_engine.training.records import log_metrics, save_weights
from dstc_engine.training.settings import TrainingSettings

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def _as_is(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class World:
    """Which worker this is, of how many, and how a model is made to share gradients.

    Attributes:
        rank, size: 0 .. size-1. device: where tensors live. wrap: e.g. DistributedDataParallel.
        report: called on every rank at each log with (step, metrics).
        clock: seconds. Workers that share gradients must read one clock: those that stopped or
            saved at different steps would wait for each other for ever.
        shows_bar: worker 0 shows how far it is.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = _as_is
    report: Callable[[int, dict[str, float]], None] | None = None
    clock: Callable[[], float] = time.monotonic
    shows_bar: bool = True


@dataclass
class Pace:
    """Counts steps, shows a bar with ETA, says when to log, to save and to stop.

    Attributes:
        steps: the run's whole length. minutes: stop (to be resumed) after this long, 0 for never.
        save_minutes: between checkpoints. log_steps: between log lines. clock, shows_bar: see
            `World`.
    """

    steps: int
    minutes: float
    title: str
    rank: int = 0
    save_minutes: float = 10.0
    log_steps: int = 50
    clock: Callable[[], float] = time.monotonic
    shows_bar: bool = True

    def run(self, start: int) -> Iterator[tuple[int, bool]]:
        """Yields (step, whether to save after it) until the length or the minutes are used up."""
        began = saved = self.clock()
        bar = tqdm(
            total=self.steps,
            initial=start,
            desc=self.title,
            disable=self.rank > 0 or not self.shows_bar,
            mininterval=5,
        )
        for step in range(start, self.steps):
            now = self.clock()
            stop = self.minutes > 0 and now - began > 60 * self.minutes
            save = stop or step == self.steps - 1 or now - saved > 60 * self.save_minutes
            if save:
                saved = now
            yield step, save
            bar.update()
            if stop:
                break
        bar.close()


def runs_in_bf16(how: TrainingSettings, device: str) -> bool:
    """Whether a network is trained in bfloat16: the settings say so, and the device does not lose.

    A CPU with neither AVX512 nor AMX emulates its products: a step of the small ViT takes 56 s
    instead of 8.3 s in float32 (batch 32, AMD EPYC of family 25, one core).
    """
    return how.bf16 and not is_emulated(torch.device(device), "bf16")


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 200, floor: float = 0.05
) -> float:
    """Linear warm-up, then a cosine down to `floor` of the peak at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves `ema` towards `model`; early on faster, so that the random start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast.to(slow.dtype), 1 - decay)
    for kept, new in zip(ema.buffers(), model.buffers(), strict=True):
        kept.copy_(new)


def shuffled_rows(count: int, batch: int, step: int, seed: int, world: World) -> Tensor:
    """This worker's rows of the batch at `step`, each epoch in a new order: (batch / size,) int64.

    Depends on the step alone, so a resumed run sees what an unbroken one would have seen.
    """
    positions = torch.arange(step * batch, (step + 1) * batch)[world.rank :: world.size]
    epochs = (positions // count).tolist()
    orders = {
        epoch: torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        for epoch in set(epochs)
    }
    return torch.tensor(
        [
            int(orders[epoch][position % count])
            for epoch, position in zip(epochs, positions, strict=True)
        ]
    )


def decayed_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices decay; biases, norms and single numbers do not."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


Draw = Callable[[int, torch.Generator], Any]
Losses = Callable[[Callable[..., Any], int, Any], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[Model]):
    """What one training has of its own; `fit` does what all share.

    Attributes:
        kind: "prior", "vit", "clip", ...: what the files of its weights are called.
        network: to train, with random weights, on the CPU.
        architecture: the network's sizes, as its description names them.
        settings: how it is trained. warmup: steps over which the rate rises to its peak; it falls
            by a cosine from there. gradient_norm: largest one, of all gradients together.
        optimizer: made of the network.
        draw: called with (step, generator), by a thread that is ahead of the network; gives the
            batch of the step, on the CPU. Every draw comes from the generator, so that a resumed
            run draws what an unbroken one would have drawn.
        losses: called with (forward, step, batch); gives scalars by name, "loss" being the one to
            descend, the others for the log. `forward` is the network, in bfloat16 where
            `runs_in_bf16`.
        evaluate: called with the averaged network and the path of a sample sheet to write; gives
            val metrics. columns: of the log, all metrics by name.
        shipped: the part of the network whose weights are kept; all of it by default.
        after_step: called after each step of the optimizer; what it gives is logged as it stands.
        described: fields of the description beside those that all have, such as mean and std.
        key: of the network in a checkpoint; a run is resumed by the key that it was saved with.

    Example:
        A network that learns to double, without images:

        def draw(step, generator):
            return torch.randn(8, 1, generator=generator)

        def losses(forward, step, x):
            return {"loss": (forward(x) - 2 * x).pow(2).mean()}

        recipe = Recipe(
            kind="double",
            network=nn.Linear(1, 1),
            architecture={"width": 1},
            settings=TrainingSettings(steps=100, batch=8, peak_rate=0.1, ema=0.9, bf16=False),
            warmup=10,
            gradient_norm=1.0,
            optimizer=lambda network: torch.optim.AdamW(network.parameters()),
            draw=draw,
            losses=losses,
            evaluate=lambda ema, sheet: {"val_weight": float(ema.weight)},
            columns=("loss", "val_weight"),
        )
    """

    kind: str
    network: Model
    architecture: Mapping[str, Any]
    settings: TrainingSettings
    warmup: int
    gradient_norm: float
    optimizer: Callable[[Model], torch.optim.Optimizer]
    draw: Draw
    losses: Losses
    evaluate: Callable[[Model, Path], dict[str, float]]
    columns: Sequence[str]
    shipped: Callable[[Model], nn.Module] = _as_is
    after_step: Callable[[], dict[str, float]] = dict
    described: Mapping[str, Any] = field(default_factory=dict)
    key: str = "network"


def fit(
    recipe: Recipe[Model],
    out: str | Path,
    minutes: float = 0,
    world: World | None = None,
    initial: str | None = None,
) -> Path:
    """Trains, or goes on training; stops at the recipe's number of steps or after `minutes`.

    Args:
        out: folder of the run: checkpoint.pt, log.csv, samples/ (a sheet per save),
            <kind>.safetensors (averaged weights, float32) and <kind>.json (their description,
            whose `bf16_steps` counts the steps that really ran in bfloat16).
        minutes: 0 for no limit; the same call continues.
        world: on which device, and as which worker of how many; None: alone, on the CPU.
        initial: weights to start from, see `load_initial`; None: random ones.

    Returns:
        The path of the weights.

    Raises:
        UserError: `initial` is another network, or not what the run in `out` started from.

    Example:
        weights = fit(recipe, "runs/icons", minutes=30, world=World(device="cuda"))
    """
    how, network, world, folder = recipe.settings, recipe.network, world or World(), Path(out)
    state = load_checkpoint(folder / "checkpoint.pt")
    part = recipe.shipped(network)
    begun = begin(part, state, initial, folder, recipe.kind, recipe.architecture)
    network.to(world.device)
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = recipe.optimizer(network)
    start, spent, bf16_steps = 0, 0.0, 0
    if state is not None:
        network.load_state_dict(state[recipe.key])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        # Older checkpoints of priors do not count seconds.
        start, spent = int(state["step"]), float(state.get("seconds", 0.0))
        # Versions that did not count these did as the settings said.
        bf16_steps = int(state.get("bf16_steps", start * how.bf16))
    model = world.wrap(network)
    bf16 = runs_in_bf16(how, world.device)
    if how.bf16 and not bf16 and world.rank == 0:
        log.warning(
            "%s trains in float32, not in bfloat16 as set: this CPU emulates it", recipe.kind
        )

    def forward(*inputs: Tensor) -> Any:
        with torch.autocast(torch.device(world.device).type, torch.bfloat16, enabled=bf16):
            return model(*inputs)

    pace = Pace(
        how.steps, minutes, recipe.kind, world.rank, clock=world.clock, shows_bar=world.shows_bar
    )

    def seed_of(step: int) -> int:
        return hash((how.seed, step, world.rank)) % 2**62

    def draw(step: int) -> Any:
        return recipe.draw(step, torch.Generator().manual_seed(seed_of(step)))

    sums: dict[str, float] = {}
    counted, began = 0, time.monotonic()
    paced, threads = pace.run(start), threads_for(world.device)
    for step, save, batch in with_batches(paced, draw, how.steps, threads):
        torch.manual_seed(seed_of(step))  # what networks draw themselves, as tokens to drop
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, how.steps, how.peak_rate, recipe.warmup)
        losses = recipe.losses(forward, step, batch)
        optimizer.zero_grad()
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_norm)
        optimizer.step()
        values = recipe.after_step()
        update_ema(ema, network, step, how.ema)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + float(loss.detach())
        counted += 1
        bf16_steps += bf16
        now = time.monotonic()
        spent, began = spent + now - began, now
        if not save and (step + 1) % pace.log_steps:
            continue
        metrics = {name: total / counted for name, total in sums.items()} | values
        sums, counted = {}, 0
        if save and world.rank == 0:
            metrics |= recipe.evaluate(ema, folder / "samples" / f"{step + 1:06d}.png")
            state = {
                "step": step + 1,
                "seconds": spent,
                "bf16_steps": bf16_steps,
                recipe.key: network.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "training": asdict(how),
                "config": dict(recipe.architecture),
                "initial": begun and asdict(begun),
            }
            save_checkpoint(folder / "checkpoint.pt", state)
            weights = recipe.shipped(ema).state_dict()
            save_weights(folder, recipe.kind, weights, _describe(recipe, state, metrics))
        if world.rank == 0:
            log_metrics(folder / "log.csv", recipe.columns, step + 1, metrics)
        if world.report:
            world.report(step + 1, metrics)
        began = time.monotonic()  # what is validated and saved is no training
    return folder / f"{recipe.kind}.safetensors"


def _describe(
    recipe: Recipe[Any], state: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, Any]:
    # What is written beside the weights; the loader reads the architecture from it.
    return {
        "architecture": state["config"],
        **recipe.described,
        "initial": state["initial"],
        "training": state["training"],
        "steps": state["step"],
        "bf16_steps": state["bf16_steps"],
        "pictures": state["step"] * recipe.settings.batch,
        "seconds": round(state["seconds"], 1),
        "metrics": {name: round(value, 5) for name, value in metrics.items()},
    }
