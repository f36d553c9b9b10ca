"""`dstc distil`: a student from a finished guided run (a pilot), here or on many machines.

    read_pilot.open_pilot -> rows   read_pairs -> contents and results, in memory
    student.training.train_student  by `fit`; several workers by Ray Train, as `dstc train`
    student.finish.finish_student   gates, student against teacher, card

The same command goes on where it was stopped, and ends at once where all is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstc.distillation.read_pilot import Pilot, check_pilot, open_pilot, read_pairs
from dstc.errors import RunFolderError, StorageError
from dstc.options import Device
from dstc.status import read_status
from dstc.store import urls
from dstc.store.input_policy import STRICT, InputPolicy
from dstc.text import describe, redact
from dstc_engine.errors import UserError

if TYPE_CHECKING:
    from dstc_engine.student.encoders import StudentEncoders
    from dstc_engine.student.pairs import Pairs
    from dstc_engine.student.training import StudentTraining
    from dstc_engine.student.validate import Comparison
    from dstc_engine.training.loop import World


@dataclass(frozen=True, kw_only=True)
class DistilPlan:
    """One distillation.

    Attributes:
        run: folder of the pilot; path or URL, which every worker reads.
        out: folder of the student, on this machine; an old one is continued.
        storage, workers, device, minutes: as in `train.TrainingPlan`.
        steps, batch: instead of the default ones. settings: others as text, see `StudentTraining`.
        inputs: what the rows of the run may name.
        encoders: in place of the preset's own.
        quiet: no bar while it trains, as one worker.
    """

    run: str
    out: str
    storage: str | None = None
    workers: int = 1
    device: Device = Device.auto
    minutes: float = 0.0
    steps: int | None = None
    batch: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    inputs: InputPolicy = STRICT
    encoders: StudentEncoders | None = None
    quiet: bool = False


def distil(plan: DistilPlan, address: str | None = None) -> Sequence[Comparison]:
    """Makes a student, or goes on making it.

    Args:
        address: of a running Ray cluster, for more than one worker; None takes RAY_ADDRESS, else
            starts Ray in this process.

    Returns:
        The student against its teacher on val contents, look by look.

    Raises:
        UserError: a run that is not finished, has too few rows, of all or of a look, or whose
            images are gone; a folder that holds another student; settings that do not exist.
        JobError: several workers broke; the same call continues.
    """
    from dstc_engine.student.finish import finish_student
    from dstc_engine.student.training import new_record

    urls.refuse_credentials(plan.run, "run")
    how = training_of(plan)
    if how.batch % plan.workers:
        raise UserError(
            f"--batch {how.batch}: {plan.workers} workers cannot share it evenly; expected a "
            f"multiple of {plan.workers}"
        )
    plan = replace(plan, run=urls.folder(plan.run), out=str(Path(plan.out).resolve()))
    try:
        _refuse_unfinished(plan.run)
        pilot = open_pilot(plan.run, plan.inputs)
        check_pilot(pilot, how.least_rows)
        pairs = read_pairs(pilot, how.val_share, how.least_rows)
    except OSError as error:
        raise StorageError(f"storage does not answer: {describe(error)}") from error
    device = "cuda" if plan.workers == 1 and _uses_cuda(plan.device) else "cpu"
    encoders = plan.encoders or _encoders(pilot, device)
    if plan.workers > 1:
        _train_on_ray(plan, address)
    else:
        from dstc_engine.training.loop import World

        _train(plan, pilot, pairs, encoders, World(device=device, shows_bar=not plan.quiet))
    record = new_record(pairs, pilot.preset, encoders, pilot.told)
    return finish_student(Path(plan.out), pairs, encoders, record)


def say_compared(compared: Sequence[Comparison], out: str) -> list[str]:
    """Lines for the terminal: where the student is, and how it does."""
    from dstc_engine.student.finish import CARD

    lines = [
        f"look {found.key}: on {found.rows} contents of val {found.fallback:.0%} of its images "
        f"fail a gate; sharpness {found.student['sharpness'][0]:.1f}, the teacher's "
        f"{found.teacher['sharpness'][0]:.1f}"
        for found in compared
    ]
    return [*lines, str(Path(out) / CARD)]


def training_of(plan: DistilPlan) -> StudentTraining:
    """The settings that a plan asks for.

    Raises:
        UserError: a setting does not exist, or its value does not fit.
    """
    from dstc_engine.student.training import StudentTraining
    from dstc_engine.training.settings import with_settings

    how = with_settings(StudentTraining(), plan.settings)
    given: dict[str, Any] = {"steps": plan.steps, "batch": plan.batch}
    return replace(how, **{name: value for name, value in given.items() if value is not None})


def _refuse_unfinished(run: str) -> None:
    status = read_status(run)
    if status.state != "finished":
        raise RunFolderError(
            f"run {redact(run)}: it is {status.state}, {status.rows_ended} of {status.rows} rows "
            "have ended; expected a finished run: the same `dstc translate` continues it"
        )


def _uses_cuda(device: Device) -> bool:
    import torch

    cuda = device is Device.cuda or (device is Device.auto and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; give --device cpu")
    return cuda


def _encoders(pilot: Pilot, device: str) -> StudentEncoders:
    from dstc_engine.student.encoders import load_encoders

    has_prompts = any(each.row.prompt for each in pilot.rows)
    return load_encoders(pilot.preset, device, prompts=has_prompts)


def _train(
    plan: DistilPlan, pilot: Pilot, pairs: Pairs, encoders: StudentEncoders, world: World
) -> Path:
    from dstc_engine.student.training import new_record, train_student

    record = new_record(pairs, pilot.preset, encoders, pilot.told)
    how = training_of(plan)
    return train_student(pairs, pilot.preset, encoders, record, plan.out, how, plan.minutes, world)


def run_loop(plan: DistilPlan, world: World) -> Path:
    """Trains as one worker of several, each of which reads the pilot itself."""
    how = training_of(plan)
    pilot = open_pilot(plan.run, plan.inputs)
    pairs = read_pairs(pilot, how.val_share, how.least_rows)
    return _train(plan, pilot, pairs, _encoders(pilot, world.device), world)


def _train_on_ray(plan: DistilPlan, address: str | None) -> None:
    from dstc.train import fit_on_ray
    from dstc_engine.student.names import KIND

    storage = plan.storage or str(Path(plan.out) / "ray")
    if "://" not in storage:
        storage = str(Path(storage).resolve())
    fit_on_ray(replace(plan, storage=storage), KIND, run_loop, address)
