"""Which run a command belongs to: a new one, this run again, or another that is refused."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstc.errors import RunFolderError
from dstc.planning.settings import Settings
from dstc.store import conditional, storage
from dstc.store.manifest import Manifest
from dstc.store.row_order import RowOrder
from dstc.store.run_folder import ENDINGS, OF_A_PILOT, RunFolder
from dstc.text import describe, redact
from dstc_engine.presets import Preset

_FORMAT = 1


# Preset fields younger than some runs: at its default, which is what was done before there was the
# field, one is no part of an identity, so that those runs go on.
_YOUNG_FIELDS = frozenset({"step_variance"})

# Differences that a refusal names before it says how many more there are.
_SHOWN_DIFFERENCES = 6


@dataclass(frozen=True)
class Job:
    """A run as job.json holds it.

    Attributes:
        run: its folder.
        run_id: names the run in logs and summaries.
        identity: what must be the same for a rerun to continue this run.
        fingerprint: over `identity`.
        image_fingerprint: over what decides an image besides its own row; written into each PNG.
        limits: every `--limit` the run was started with, this time's included, since one may have
            cut a shard short.
        record: job.json as a whole.
        order: of the run's rows, where the manifest got rows since the run began.
        appends_to: job.json as it was, where this command brings rows to a run; None where it does
            not. rows_kept: rows that have results by then.
    """

    run: RunFolder
    run_id: str
    identity: Mapping[str, Any]
    fingerprint: str
    image_fingerprint: str
    limits: tuple[int, ...]
    record: Mapping[str, Any]
    order: RowOrder | None = None
    appends_to: Mapping[str, Any] | None = None
    rows_kept: int = 0

    def cut_shards(self, manifest: Manifest) -> set[int]:
        """Shards that an earlier, lower limit may have cut."""
        lower = [limit for limit in self.limits if limit < manifest.rows]
        return {dataclasses.replace(manifest, rows=limit).shards - 1 for limit in lower}


def plan_job(settings: Settings, manifest: Manifest, weights: Sequence[Any] = ()) -> Job:
    """The job of these settings, before anything is read or written in its folder.

    Args:
        settings: of the run.
        manifest: planned.
        weights: records of the networks' weights.
    """
    preset = dataclasses.asdict(settings.resolved_preset)
    usual = {field.name: field.default for field in dataclasses.fields(Preset)}
    said = {k: v for k, v in preset.items() if k not in _YOUNG_FIELDS or v != usual[k]}
    # A student of the run's own folder is called so wherever that lies.
    names = {record.name: record.name for record in weights}
    if settings.pilot is not None:
        names[str(settings.student)] = "student"
    decisive: dict[str, Any] = {
        "weights": {names[record.name]: record.sha256 for record in weights}
    }
    # Of weights of the user's own, what their descriptions say decides images, too.
    if described := {names[record.name]: record.settings for record in weights if record.settings}:
        decisive["described"] = described
    engine: dict[str, Any] = {
        "kind": settings.engine,
        "slots": settings.slots,
        "precision": settings.precision,
        "compile": settings.compile,
    }
    if settings.deterministic:  # runs begun before there was the option say nothing of it
        engine["deterministic"] = True
    if settings.student is not None:  # the weights tell which
        engine["fallback"] = settings.fallback
    # Only where something was asked for: runs of before there was anything to ask go on.
    form = settings.output_form
    files = {str(file.pop("name")): file for file in manifest.identity()}
    identity = _plain(
        {
            "preset": said,
            "seed": settings.seed,
            **decisive,
            "manifest": files,
            **({"columns": settings.columns} if settings.columns else {}),
            "rows_per_shard": settings.rows_per_shard,
            "samples_per_row": settings.samples_per_row,
            "engine": engine,
            **({"output": form} if form else {}),
            **({"pilot": _of_pilot(settings)} if settings.pilot is not None else {}),
        }
    )
    fingerprint = _digest(identity)
    # Gates judge images and change none.
    deciding = {name: value for name, value in said.items() if not name.startswith("gate_")}
    run_id = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{fingerprint[:6]}"
    limits = (settings.limit,) if settings.limit else ()
    return Job(
        run=RunFolder(settings.output, ENDINGS[settings.format]),
        run_id=run_id,
        identity=identity,
        fingerprint=fingerprint,
        image_fingerprint=_digest(
            _plain({"preset": deciding, **decisive, "engine": engine, **_of_images(form)})
        ),
        limits=limits,
        record=_plain(
            {
                "format": _FORMAT,
                "run_id": run_id,
                "created": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
                "fingerprint": fingerprint,
                "settings": settings.model_dump(
                    exclude={
                        "address",
                        "append",
                        "retry",
                        "max_rejected",
                        "limit",
                        "row_deadline",
                        "device",
                        "auto_slots",
                    }
                ),
                "preset": preset,
                "weights": [dataclasses.asdict(record) for record in weights],
                "manifest": {
                    "uri": manifest.uri,
                    "rows": sum(file.rows for file in manifest.files),
                    "columns": {field.name: str(field.type) for field in manifest.schema},
                    "files": files,
                    **({"of": settings.rows_of} if settings.rows_of else {}),
                },
                "identity": identity,
                "limits": limits,
                "versions": _versions(("dstc", "torch", "ray", "pyarrow")),
            }
        ),
    )


def _of_pilot(settings: Settings) -> dict[str, object]:
    return {"rows": settings.pilot, "distil": dict(sorted(settings.distil.items()))}


def _of_images(form: Mapping[str, object]) -> dict[str, object]:
    names = ("format", "quality", "restore_size")
    found = {name: form[name] for name in names if name in form}
    return {"output": found} if found else {}


def existing_job(planned: Job) -> Job | None:
    """The run that the folder holds already, or None when the folder is empty or missing.

    Raises:
        RunFolderError: the folder holds another run, or something that is no run.
    """
    run = planned.run
    shown = redact(run.uri)
    try:
        text = storage.read_bytes(run.job)
    except OSError as error:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise _unusable(run, "read", error) from error
        # A driver that ended right after it took the lease leaves that alone.
        usual = {"lease.json", *(OF_A_PILOT if "pilot" in planned.identity else ())}
        names = [name for name in storage.list_names(run.uri) if name not in usual]
        if names or (storage.exists(run.uri) and not storage.is_folder(run.uri)):
            found = ", ".join(names[:3]) or "a file"
            raise RunFolderError(
                f"output {shown}: found {found}, and no job.json; expected an empty or new folder, "
                "or one of this same run"
            ) from None
        return None
    try:
        record = json.loads(text)
        identity, run_id = record["identity"], record["run_id"]
        limits = [int(limit) for limit in record["limits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{redact(run.job)}: not a job.json of this program ({type(error).__name__}: {error})"
        ) from error
    before = planned.appends_to
    if before is not None and (identity, record.get("order")) == (
        before["identity"],
        before.get("order"),
    ):
        record = _appended(record, planned)
        identity = record["identity"]
    refuse_another_run(run, identity, planned.identity)
    if record.get("order") != (planned.order and planned.order.name):
        raise RunFolderError(
            f"output {shown}: another command has just appended rows; the same command continues"
        )
    all_limits = tuple(dict.fromkeys([*limits, *planned.limits]))
    return dataclasses.replace(planned, run_id=run_id, limits=all_limits, record=record)


def refuse_another_run(run: RunFolder, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Compares what a folder was begun with, and what a command is about to do.

    Raises:
        RunFolderError: they differ; the first few differences are named.
    """
    if different := list(differences(there, here)):
        raise refusal(run, different)


def refusal(run: RunFolder, different: Sequence[str], more: str = "") -> RunFolderError:
    """Why the run of a folder is not the planned one.

    Args:
        different: one or more of `differences`. more: to add at the end.
    """
    others = len(different) - _SHOWN_DIFFERENCES
    return RunFolderError(
        f"output {redact(run.uri)} belongs to another run: "
        + "; ".join(different[:_SHOWN_DIFFERENCES])
        + (f"; and {others} more" if others > 0 else "")
        + ". Give another output folder, or the same arguments to continue that run"
        + more
    )


def _appended(record: Mapping[str, Any], planned: Job) -> dict[str, Any]:
    """job.json of a run with the rows of the planned manifest: the same run, by its `run_id`."""
    there, here = record["manifest"], planned.record["manifest"]
    step = {
        "appended": planned.record["created"],
        "rows_before": there["rows"],
        "rows": here["rows"],
        "fingerprint_before": record["fingerprint"],
    }
    order = {"order": planned.order.name} if planned.order else {}
    return {
        **{name: value for name, value in record.items() if name != "order"},
        "fingerprint": planned.fingerprint,
        "settings": {**record["settings"], "manifest": planned.record["settings"]["manifest"]},
        "manifest": {**here, "columns": there["columns"]},
        "identity": dict(planned.identity),
        **order,
        "appends": [*record.get("appends", []), step],
    }


def recorded_slots(output: str) -> int | None:
    """The slots that the run in a folder was begun with; None without a run that tells."""
    try:
        record = json.loads(storage.read_bytes(RunFolder(output).job))
        return int(record["identity"]["engine"]["slots"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `existing_job` says what is wrong with the folder, if anything is


def open_or_create(planned: Job, epoch: int | None = None) -> Job:
    """The folder's own run when it is this one, else a new run in an empty folder.

    Args:
        epoch: of the driver that takes the run, noted in job.json; None leaves that as it is.

    Raises:
        RunFolderError: the folder holds another run, or something that is no run, or has been
            taken by a driver of a newer epoch.
    """
    while True:
        found = _read(planned.run)
        job = existing_job(planned)
        noted = job.record.get("epoch") if job else None  # none in runs begun before epochs
        if epoch is not None and isinstance(noted, int) and noted >= epoch:
            raise RunFolderError(
                f"output {redact(planned.run.uri)}: another driver has just taken it (epoch "
                f"{noted}; here {epoch})"
            )
        record = dict(job.record) if job else dict(planned.record)
        if job:
            record["limits"] = list(job.limits)
        if epoch is not None:
            record["epoch"] = epoch
        job = dataclasses.replace(job or planned, record=record)
        if job.appends_to is not None:
            _begin_append(job)
        # Where somebody has written since it was read, it is looked at again.
        if (found and json.loads(found.data) == record) or _save(job, found):
            return job


def _begin_append(job: Job) -> None:
    """Keeps the order of the rows; and takes away what tells that the run is finished."""
    try:
        if job.order is not None:
            job.order.write(job.run)
        if job.record["manifest"]["rows"] > job.rows_kept:
            for uri in (job.run.summary, job.run.progress):
                storage.remove(uri)
    except OSError as error:
        raise _unusable(job.run, "written", error) from error


def _read(run: RunFolder) -> conditional.Versioned | None:
    try:
        return conditional.read(run.job)
    except OSError as error:
        raise _unusable(run, "read", error) from error


def _save(job: Job, found: conditional.Versioned | None) -> bool:
    text = json.dumps(job.record, indent=2, ensure_ascii=False)
    version = found.version if found else None
    try:
        return conditional.swap(job.run.job, text.encode() + b"\n", version) is not None
    except OSError as error:
        raise _unusable(job.run, "written", error) from error


def _unusable(run: RunFolder, verb: str, error: OSError) -> RunFolderError:
    reason = describe(error)
    return RunFolderError(f"output {redact(run.uri)} cannot be {verb}: {reason}")


def differences(there: object, here: object, path: str = "") -> Iterable[str]:
    """What two identities differ in, for example "seed: there 0, here 1"."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(there.get(key), here.get(key), inner)
    elif there != here:
        yield f"{path}: there {_shown(there)}, here {_shown(here)}"


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    # Through JSON once, so that tuples compare equal to what a saved job.json brings back.
    return dict(json.loads(json.dumps(value)))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
