"""`dstc translate --pilot N`: a pilot, a student of it, and all rows by that student, in one run.

    pilot      rows of each look, guided: an ordinary run in OUTPUT/pilot
    distil     a student of them, in OUTPUT/student
    translate  all rows of the manifest by that student: the ordinary run in OUTPUT

pilot.json says which stage a folder is in. The same command goes on there, and each stage does
what it has not done yet. Until the last one, OUTPUT's lease keeps other drivers out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.distil import DistilPlan, distil, say_compared, training_of
from dstc.driver.driving import driving, telling_ends
from dstc.driver.lease import Lease
from dstc.driver.pilot_plan import print_pilot_plan
from dstc.driver.stage_note import StageNote
from dstc.driver.summary import Summary
from dstc.driver.terminal import by_reason, print_no_conditions, print_waiting
from dstc.engines.guided import GUIDED
from dstc.errors import ManifestError, RunFolderError, SettingsError, StorageError
from dstc.manifests.build_hint import with_hint
from dstc.options import Device
from dstc.planning.pilot_cost import expected_cost
from dstc.planning.pilot_rows import PilotRows, choose_pilot_rows, pilot_table
from dstc.planning.run_identity import Job, existing_job, plan_job, refuse_another_run
from dstc.planning.settings import USUAL_SLOTS, Settings
from dstc.planning.workers import likely_device
from dstc.status import read_status
from dstc.store import retries, storage, urls
from dstc.store.input_policy import InputPolicy
from dstc.store.manifest import Manifest, open_manifest
from dstc.store.pilot_record import PilotRecord, read_pilot_record, write_pilot_record
from dstc.store.run_folder import RunFolder
from dstc.text import describe, redact, visible
from dstc.translate import OK, Show
from dstc.translate import run as translate
from dstc.translate import run_silently as translate_silently
from dstc_engine.errors import UserError
from dstc_engine.student.names import KIND
from dstc_engine.weights.places import weights_folder

log = logging.getLogger(__name__)

# Rows of a shard of the pilot, at most: guided rows take seconds, a student's milliseconds.
_ROWS_PER_SHARD = 16
# Share of a pilot's rows that must have come out well before anything is learned from it.
_LEAST_SHARE = 0.5


def run(
    settings: Settings, dry_run: bool = False, tflops: float | None = None, quiet: bool = False
) -> int:
    """Runs the job as `dstc.translate.run` does; with `settings.pilot`, its student is made first.

    Args and returns: as there.

    Raises:
        UserError: as there; or a pilot that cannot teach a student, which is kept.
        JobError: the job broke; the same command continues it.
    """
    if settings.pilot is None:
        return translate(settings, dry_run, tflops, quiet)
    if dry_run:
        if not _say_plan(settings, tflops):
            translate(settings, dry_run, tflops, quiet)
        return OK

    voice = _Voice(
        translate=lambda pilot: translate(pilot, quiet=quiet),
        say=_say_nothing if quiet else _say,
        on_wait=print_waiting,
        on_no_conditions=print_no_conditions,
    )
    _make_student(settings, voice)
    return translate(settings, quiet=quiet)


def run_silently(settings: Settings, show: Show | None = None) -> Summary:
    """Runs the job as `run` does, and prints nothing.

    Args:
        settings: of the run. show: around each pipeline, gets its rows and its monitor.

    Raises:
        UserError, JobError: as `run`.
    """
    if settings.pilot is not None:
        voice = _Voice(
            translate=lambda pilot: translate_silently(pilot, show),
            say=_say_nothing,
            on_wait=lambda holder: log.warning("another driver (%s) is there", visible(holder)),
            on_no_conditions=lambda output: log.warning(
                "output %s: no conditional writes", visible(output)
            ),
        )
        _make_student(settings, voice)
    return translate_silently(settings, show)


def pilot_settings(settings: Settings) -> Settings:
    """Settings of the guided run that a run with `--pilot` begins with."""
    run = RunFolder(settings.output)
    return settings.model_copy(
        update={
            "manifest": run.pilot_manifest,
            "rows_of": settings.manifest,
            "columns": {},
            "output": run.pilot_run,
            "engine": "guided",
            "student": None,
            "pilot": None,
            "distil": {},
            "fallback": "guided",
            "slots": min(settings.slots, USUAL_SLOTS),
            "rows_per_shard": min(settings.rows_per_shard, _ROWS_PER_SHARD),
            "max_rejected": 1.0,
            # A student learns from pixels as they were made, and from no labels.
            "format": "png",
            "restore_size": False,
            "store": "files",
            **dict.fromkeys(("quality", "boxes", "keypoints", "masks")),
        }
    )


@dataclass(frozen=True)
class _Voice:
    """How the pilot is run, and how a person is told of the stages."""

    translate: Callable[[Settings], object]
    say: Callable[[str], None]
    on_wait: Callable[[str], None]
    on_no_conditions: Callable[[str], None]


@dataclass(frozen=True)
class _Begun:
    """What a command asks for: the run that ends all, before its student is known."""

    settings: Settings
    manifest: Manifest
    job: Job
    rows: int
    least_rows: int

    def record(self) -> PilotRecord | None:
        """What the folder holds of this run; None in a new one.

        Raises:
            RunFolderError: it holds another run.
        """
        record = read_pilot_record(self.job.run)
        if record is None:
            existing_job(self.job)
        else:
            refuse_another_run(self.job.run, record.identity, self.job.identity)
        return record

    @cached_property
    def chosen(self) -> PilotRows:
        """The rows of the pilot.

        Raises:
            SettingsError: no student can come of it.
        """
        left_out = frozenset(self.manifest.duplicates().rows.tolist())
        return choose_pilot_rows(self.manifest, self.rows, self.least_rows, left_out)


def _begun(settings: Settings) -> _Begun:
    assert settings.pilot is not None
    how = training_of(DistilPlan(run="", out="", settings=settings.distil))
    try:
        manifest = open_manifest(
            settings.manifest, settings.rows_per_shard, columns=settings.columns
        )
    except ManifestError as error:
        raise with_hint(error, settings.manifest) from error
    job = plan_job(settings, manifest, GUIDED.weights(settings))
    return _Begun(settings, manifest, job, settings.pilot, how.least_rows)


def _make_student(settings: Settings, voice: _Voice) -> None:
    """The first two stages, or what is left of them."""
    try:
        begun = _begun(settings)
        record = begun.record()
        if record is None:
            assert begun.chosen  # refuses before anything is written
        elif record.stage == "translate":
            return _refuse_another_student(begun.job.run, record)
    except OSError as error:
        raise StorageError(f"storage does not answer: {describe(error)}") from error
    run = begun.job.run
    lease = Lease(run.lease, redact(run.uri))
    with telling_ends(lease), driving(lease, voice.on_wait, voice.on_no_conditions):
        # Another driver may have ended meanwhile.
        record = begun.record() or _write_pilot(begun, voice.say)
        if record.stage != "translate":
            with StageNote(run, record.stage) as note:
                _run_stages(begun, record, note, voice)


def _write_pilot(begun: _Begun, say: Callable[[str], None]) -> PilotRecord:
    """Chooses the pilot's rows and begins the run; pilot.json comes last."""
    chosen, run = begun.chosen, begun.job.run
    sink = pa.BufferOutputStream()
    pq.write_table(pilot_table(begun.manifest, chosen.rows), sink)
    storage.write_bytes(run.pilot_manifest, sink.getvalue().to_pybytes(), retries.STEADY)
    record = PilotRecord(
        stage="pilot",
        rows=len(chosen.rows),
        all_rows=begun.manifest.all_rows,
        looks=[dataclasses.asdict(look) for look in chosen.looks],
        identity=begun.job.identity,
    )
    write_pilot_record(run, record)
    if chosen.other_looks:
        say(
            f"{chosen.other_rows:,} rows of {chosen.other_looks:,} looks that have fewer than "
            f"{begun.least_rows} rows each are left to --fallback {begun.settings.fallback}"
        )
    return record


def _run_stages(begun: _Begun, record: PilotRecord, note: StageNote, voice: _Voice) -> None:
    run, settings = begun.job.run, begun.settings
    folder = _training_folder(run)
    if settings.retry and not folder.exists():
        record = dataclasses.replace(record, stage="pilot")  # nothing has been learned from it yet
    if record.stage == "pilot":
        voice.say(f"stage 1 of 3: {record.rows:,} rows guided, in {redact(run.pilot_run)}")
        voice.translate(pilot_settings(settings))
        _refuse_bad_pilot(run)
        record = dataclasses.replace(record, stage="distil")
        write_pilot_record(run, record)
    note.begin("distil")
    voice.say(f"stage 2 of 3: a student of {len(record.looks)} looks, in {redact(run.student)}")
    _distil(settings, run, folder, voice.say)
    record = dataclasses.replace(record, stage="translate", student_sha256=_student_sum(run))
    write_pilot_record(run, record)
    if storage.local_folder(run.student) is None:
        shutil.rmtree(folder, ignore_errors=True)
    note.begin("translate")
    voice.say(f"stage 3 of 3: {record.all_rows:,} rows by the student, in {redact(run.uri)}")


def _refuse_bad_pilot(run: RunFolder) -> None:
    """Makes sure that most of a pilot's rows came out well, before anything learns from them."""
    status = read_status(run.pilot_run)
    good = status.done - status.flagged
    if good >= _LEAST_SHARE * status.rows:
        return
    counts = (
        ("failed", status.failed, status.failed_reasons),
        ("rejected", status.rejected, status.rejected_reasons),
        ("flagged", status.flagged, status.flagged_reasons),
    )
    why = "; ".join(f"{rows:,} {name}{by_reason(of)}" for name, rows, of in counts if rows)
    raise SettingsError(
        f"pilot {redact(run.pilot_run)}: a student can learn from {good:,} of its {status.rows:,} "
        f"rows ({why}); expected {_LEAST_SHARE:.0%} of them or more. Nothing is lost: mend the "
        "cause (`dstc report` of that folder shows the rows) and give the same command with "
        "--retry failed or rejected, or another output folder with other settings of the preset"
    )


def _distil(settings: Settings, run: RunFolder, folder: Path, say: Callable[[str], None]) -> None:
    """Makes the student of a finished pilot, or goes on; it is in the run folder at return."""
    plan = DistilPlan(
        run=run.pilot_run,
        out=str(folder),
        # On this machine, which may have no GPU where its workers have some.
        device=Device.cpu if settings.device == "cpu" else Device.auto,
        settings=settings.distil,
        inputs=_inputs(settings),
        quiet=say is _say_nothing,
    )
    try:
        compared = distil(plan)
    except UserError as error:
        raise SettingsError(
            f"{error}. The pilot is kept in {redact(run.pilot_run)}: `dstc distil` makes a student "
            "of it with other settings, and `dstc translate --student` uses that in another output "
            "folder"
        ) from error
    for line in say_compared(compared, run.student):
        say(line)
    _free_gpu()
    if storage.local_folder(run.student) is None:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        # The description last: what has none is no student.
        for path in sorted(paths, key=lambda path: path.name == f"{KIND}.json"):
            if path.name != "checkpoint.pt":
                name = path.relative_to(folder).as_posix()
                storage.write_file(urls.join(run.student, name), path)


def _training_folder(run: RunFolder) -> Path:
    """Where a student is trained: in the run folder, or where that is no disk, beside weights."""
    local = storage.local_folder(run.student)
    if local is not None:
        return local
    return weights_folder() / "students" / hashlib.sha256(run.uri.encode()).hexdigest()[:16]


def _inputs(settings: Settings) -> InputPolicy:
    """What rows of the pilot may name to this process, also where the run is on object storage."""
    inputs = settings.inputs
    return dataclasses.replace(inputs, local_folders=("/",)) if inputs.any_local else inputs


def _free_gpu() -> None:
    """Gives back what training held, for the actors."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _student_sum(run: RunFolder) -> str:
    description = storage.read_bytes(urls.join(run.student, f"{KIND}.json"), retries.STEADY)
    return hashlib.sha256(description).hexdigest()


def _refuse_another_student(run: RunFolder, record: PilotRecord) -> None:
    """Makes sure that the student is the one that the run has begun to use."""
    try:
        found = _student_sum(run)
    except FileNotFoundError:
        found = "none"
    if found != record.student_sha256:
        raise RunFolderError(
            f"output {redact(run.uri)}: the student there has been changed since the run made it "
            f"({KIND}.json has sha256 {found}; expected {record.student_sha256}). Bring it back, "
            "or give another output folder"
        )


def _say_plan(settings: Settings, tflops: float | None) -> bool:
    """Prints what all stages will cost; False where the student is there already."""
    try:
        begun = _begun(settings)
        record = begun.record()
        if record is not None and record.stage == "translate":
            return False
        chosen = begun.chosen
    except OSError as error:
        raise StorageError(f"storage does not answer: {describe(error)}") from error
    device = likely_device(settings)
    has_prompts = any(look.prompt for look in chosen.looks)
    how = training_of(DistilPlan(run="", out="", settings=settings.distil))
    cost = expected_cost(
        settings, how, len(chosen.rows), begun.manifest.all_rows, len(chosen.looks), has_prompts,
        device, tflops,
    )  # fmt: skip
    print_pilot_plan(settings, chosen, cost, record.stage if record else None, device)
    return True


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


def _say_nothing(line: str) -> None:
    pass
