"""`dstc train`: trains the prior and the small encoders, here or on many machines by Ray Train.

The loop is plain PyTorch, `fit` of `dstc_engine/training/loop.py`. One worker runs it right here,
without Ray. More workers run the same under Ray Train, which shares gradients, and restarts
everybody from the last checkpoint when one dies:

    train() -> run_loop(World())                                      one worker
            -> TorchTrainer -> _work -> run_loop(World of Ray Train)  several; they store it

Heavy imports (torch, Ray) wait inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from dstc import help_texts
from dstc.errors import JobError
from dstc.options import Address, Device, read_key_values
from dstc_engine.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from dstc_engine.training.loop import World
    from dstc_engine.training.settings import TrainingSettings


class Kind(StrEnum):
    """What is trained."""

    prior = "prior"
    vit = "vit"
    clip = "clip"


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training run.

    Attributes:
        kind: what is trained. data: the Parquet of `dstc emoji build`, readable by every worker; or
            images in any form of `dstc manifest build`, which only this process reads.
        out: run folder; an old one is continued. storage: where Ray Train keeps checkpoints, any
            URL that every worker reaches; None is `<out>/ray`.
        workers, device: how many processes, on what.
        minutes: stop after this long (0: never); the same plan continues.
        initial: weights to start a new run from, see `dstc_engine.training.initial`; every worker
            must reach them. None: random ones.
        steps, batch: instead of the default ones; batch counts images of all workers together.
        settings: other settings as text, see its `PriorTraining`, `ViTTraining` or
            `CLIPTraining`; `steps` and `batch` go before them.
        config, how: instead of the default sizes and settings, such as a `ViTConfig`.
        columns, fit: of images that are no emoji, see `dstc.manifests.training_rows.Wanted`.
    """

    kind: Kind
    data: str
    out: str
    storage: str | None = None
    workers: int = 1
    device: Device = Device.auto
    minutes: float = 0.0
    initial: str | None = None
    steps: int | None = None
    batch: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    config: Any = None
    how: Any = None
    columns: Mapping[str, str] = field(default_factory=dict)
    fit: str = "crop"


app = typer.Typer(
    help="Trains the prior and the small encoders.", no_args_is_help=True, add_completion=False
)

_Data = Annotated[
    str,
    typer.Option(
        help="Images: a folder, pattern, table or data set, as for `dstc manifest build`; or the "
        "Parquet of `dstc emoji build`."
    ),
]

_Squared = StrEnum("_Squared", ["crop", "pad"])
_Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NEW=OLD",
        help="content, caption, look, pair or split, and what the data call it; repeatable.",
    ),
]
_Fit = Annotated[_Squared, typer.Option(help="crop: the middle square; pad: all, on white.")]
_Out = Annotated[str, typer.Option(help="Run folder, new or to continue.")]
_Storage = Annotated[
    str | None, typer.Option(help="Where several workers keep checkpoints; path or URL.")
]
_From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="NAME_OR_FOLDER",
        help="Start a new run from these weights: a name (`dstc weights list`), a description, or "
        "the folder of an earlier run.",
    ),
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the training to change; may be given more than once.",
    ),
]
_Steps = Annotated[int | None, typer.Option(min=1, help="Length of the whole run.")]
_Batch = Annotated[int | None, typer.Option(min=1, help="Images per step, over all workers.")]
_Minutes = Annotated[float, typer.Option(min=0, help="Stop after; the same command continues.")]
_Workers = Annotated[int, typer.Option(min=1, help="Above 1: through Ray Train.")]
_Device = Annotated[Device, typer.Option(help="Where the networks live.")]


@app.command(no_args_is_help=True, epilog=help_texts.TRAIN_PRIOR)
def prior(
    data: _Data,
    out: _Out,
    initial: _From = None,
    steps: _Steps = None,
    batch: _Batch = None,
    set_: _Set = None,
    minutes: _Minutes = 0.0,
    workers: _Workers = 1,
    device: _Device = Device.auto,
    storage: _Storage = None,
    address: Address = None,
    column: _Column = None,
    fit: _Fit = _Squared.crop,
) -> None:
    """Trains the 64-pixel diffusion prior."""
    plan = TrainingPlan(
        kind=Kind.prior, data=data, out=out, steps=steps, batch=batch, minutes=minutes,
        workers=workers, device=device, storage=storage, initial=initial,
        settings=read_key_values(set_ or []),
        columns=read_key_values(column or [], "--column"), fit=fit.value,
    )  # fmt: skip
    typer.echo(train(plan, address))


class _Encoder(StrEnum):
    vit = "vit"
    clip = "clip"


@app.command(no_args_is_help=True, epilog=help_texts.TRAIN_ENCODER)
def encoder(
    data: _Data,
    out: _Out,
    kind: Annotated[_Encoder, typer.Option(help="vit: structure and look; clip: prompts.")],
    initial: _From = None,
    steps: _Steps = None,
    batch: _Batch = None,
    set_: _Set = None,
    minutes: _Minutes = 0.0,
    workers: _Workers = 1,
    device: _Device = Device.auto,
    storage: _Storage = None,
    address: Address = None,
    column: _Column = None,
    fit: _Fit = _Squared.crop,
) -> None:
    """Trains one of the 64-pixel networks that guidance looks through."""
    plan = TrainingPlan(
        kind=Kind(kind.value), data=data, out=out, steps=steps, batch=batch, minutes=minutes,
        workers=workers, device=device, storage=storage, initial=initial,
        settings=read_key_values(set_ or []),
        columns=read_key_values(column or [], "--column"), fit=fit.value,
    )  # fmt: skip
    typer.echo(train(plan, address))


def train(plan: TrainingPlan, address: str | None = None) -> Path:
    """Trains, or goes on training, what `plan` says; returns the path of the weights in `plan.out`.

    Args:
        address: of a running Ray cluster, for more than one worker; None takes RAY_ADDRESS, else
            starts Ray in this process.

    Raises:
        UserError: data that cannot be trained on, more workers than the cluster has room for, or
            a batch that they cannot share evenly.
        JobError: training broke; the same call continues from the last checkpoint.
    """
    training_of(plan)  # refuses wrong settings before anything starts
    if plan.workers > 1:
        plan = _absolute(plan)
        _check_batch(plan)
        return fit_on_ray(_with_images(plan), plan.kind.value, run_loop, address)
    import torch

    from dstc_engine.training.loop import World

    cuda = plan.device is Device.cuda or (plan.device is Device.auto and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; give --device cpu")
    return run_loop(_with_images(plan), World(device="cuda" if cuda else "cpu"))


def _with_images(plan: TrainingPlan) -> TrainingPlan:
    """The plan with an indexed Parquet as its data, which is made of other images here."""
    from dstc.manifests.training_images import prepare_images
    from dstc.manifests.training_rows import Wanted
    from dstc.store import urls
    from dstc_engine.training.images import is_indexed

    if is_indexed(plan.data) and not plan.columns:
        return plan
    folder = plan.storage if plan.workers > 1 and plan.storage else plan.out
    images = urls.join(urls.absolute(folder), "images.parquet")
    wanted = Wanted(
        data=urls.absolute(plan.data),
        size=_image_size(plan),
        fit=plan.fit,
        columns=dict(plan.columns),
        captions=plan.kind is Kind.clip,
    )
    for note in prepare_images(wanted, images):
        typer.echo(note, err=True)
    return replace(plan, data=images)


def run_loop(plan: TrainingPlan, world: World) -> Path:
    """Trains what `plan.kind` says in this process, as one worker of `world`."""
    from dstc_engine.training.prior import train_prior
    from tiny64.clip_training import train_clip
    from tiny64.vit_training import train_vit

    trainings: dict[Kind, Callable[..., Path]] = {
        Kind.prior: train_prior, Kind.vit: train_vit, Kind.clip: train_clip,
    }  # fmt: skip
    run, how = trainings[plan.kind], training_of(plan)
    return run(plan.data, plan.out, plan.config, how, plan.minutes, world, plan.initial)


def training_of(plan: TrainingPlan) -> TrainingSettings:
    """The settings that a plan asks for.

    Raises:
        UserError: a setting does not exist, or its value does not fit.
    """
    from dstc_engine.training.prior import PriorTraining
    from dstc_engine.training.settings import with_settings
    from tiny64.clip import CLIPTraining
    from tiny64.vit import ViTTraining

    own: dict[Kind, Callable[[], TrainingSettings]] = {
        Kind.prior: PriorTraining, Kind.vit: ViTTraining, Kind.clip: CLIPTraining,
    }  # fmt: skip
    how = with_settings(plan.how or own[plan.kind](), plan.settings)
    given = {"steps": plan.steps, "batch": plan.batch}
    return replace(how, **{name: value for name, value in given.items() if value is not None})


def _image_size(plan: TrainingPlan) -> int:
    """Pixels of a side that the network sees."""
    from dstc_engine.training.prior import TINY_UNET
    from tiny64.clip import CLIPConfig
    from tiny64.vit import ViTConfig

    if plan.kind is Kind.prior:
        return int((plan.config or TINY_UNET).image_size)
    if plan.kind is Kind.vit:
        return int((plan.config or ViTConfig()).img_size)
    return int((plan.config or CLIPConfig()).vision_cfg["image_size"])


def _absolute(plan: TrainingPlan) -> TrainingPlan:
    # Workers run in other folders than this process.
    data = plan.data if "://" in plan.data else str(Path(plan.data).resolve())
    out = str(Path(plan.out).resolve())
    storage = plan.storage or str(Path(out) / "ray")
    if "://" not in storage:
        storage = str(Path(storage).resolve())
    initial = plan.initial
    if initial is not None and Path(initial).exists():
        initial = str(Path(initial).resolve())
    return replace(plan, data=data, out=out, storage=storage, initial=initial)


def _check_batch(plan: TrainingPlan) -> None:
    how = training_of(plan)
    # CLIP fills its batch with companions of the subjects that are drawn.
    together = 1 + int(getattr(how, "companions", 0))
    if how.batch % (plan.workers * together):
        raise UserError(
            f"--batch {how.batch}: {plan.workers} workers cannot share it evenly; expected a "
            f"multiple of {plan.workers * together}"
        )


class RayPlan(Protocol):
    """What `fit_on_ray` needs of a plan, a dataclass; see `TrainingPlan`."""

    @property
    def out(self) -> str: ...
    @property
    def storage(self) -> str | None: ...
    @property
    def workers(self) -> int: ...
    @property
    def device(self) -> Device: ...


def fit_on_ray(
    plan: RayPlan, kind: str, loop: Callable[[Any, World], Path], address: str | None
) -> Path:
    """Trains with several workers of Ray Train; returns the path of the weights in `plan.out`.

    Args:
        plan: with absolute paths. kind: what the files of the weights are called.
        loop: called in each worker with the plan, whose `out` is a folder of the worker's own.
        address: of a running Ray cluster; None takes RAY_ADDRESS, else starts Ray here.

    Raises:
        UserError: more workers than the cluster has room for.
        JobError: training broke; the same call continues from the last checkpoint.
    """
    from dstc.ray_session import running_ray

    with running_ray(address or os.environ.get("RAY_ADDRESS")):
        return _fit(plan, kind, loop)


def _fit(plan: RayPlan, kind: str, loop: Callable[[Any, World], Path]) -> Path:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from dstc.ray_session import choose_device

    room = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(room.get("GPU", 0)), int(room.get("CPU", 0))
    use_gpu = choose_device(plan.device, gpus) == "cuda"
    if plan.workers > (gpus if use_gpu else cpus):
        raise UserError(
            f"--workers {plan.workers}: the Ray cluster has {gpus} GPUs and {cpus} CPUs; each "
            f"worker takes a {'GPU' if use_gpu else 'CPU'}"
        )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"plan": plan, "loop": loop},
        scaling_config=ScalingConfig(num_workers=plan.workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=kind,
            storage_path=plan.storage,
            # A lost machine costs the minutes since the last checkpoint; a bug fails each time.
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # Ray Train re-raises the workers' errors in types of its own
        raise JobError(
            f"training broke: {str(error).strip().splitlines()[-1]}. Checkpoints in {plan.storage} "
            "are kept; the same command continues"
        ) from error
    if result.checkpoint is None:
        raise JobError(f"training ended without a checkpoint in {plan.storage}")
    with result.checkpoint.as_directory() as folder:
        shutil.copytree(folder, plan.out, dirs_exist_ok=True)
    return Path(plan.out) / f"{kind}.safetensors"


def _work(settings: dict[str, Any]) -> None:
    """One worker of Ray Train."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    from dstc_engine.training.loop import World

    plan, loop = settings["plan"], settings["loop"]
    context = ray.train.get_context()
    rank = context.get_world_rank()

    def wrap(model: nn.Module) -> nn.Module:
        wrapped: nn.Module = prepare_model(model)
        return wrapped

    with tempfile.TemporaryDirectory(prefix="dstc-train-") as folder:
        # Each worker works in a folder of its own and starts from what storage has, so machines
        # need no disk in common; worker 0's folder is what is stored.
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as saved:
                shutil.copytree(saved, folder, dirs_exist_ok=True)
        state = Path(folder) / "checkpoint.pt"
        stored = _version(state)

        def report(step: int, metrics: dict[str, float]) -> None:
            nonlocal stored
            fresh = rank == 0 and _version(state) != stored
            stored = _version(state)
            ray.train.report(
                {"step": step, **metrics},
                checkpoint=ray.train.Checkpoint.from_directory(folder) if fresh else None,
            )

        world = World(
            rank=rank,
            size=context.get_world_size(),
            device=str(get_device()),
            wrap=wrap,
            report=report,
            clock=_shared_clock,
        )
        loop(replace(plan, out=folder), world)


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _shared_clock() -> float:
    """Seconds by worker 0's clock, so that all workers save and stop at the same step."""
    import time

    import torch
    from ray.train.torch import get_device

    now = torch.tensor([time.monotonic()], dtype=torch.float64, device=get_device())
    torch.distributed.broadcast(now, src=0)
    return float(now)
