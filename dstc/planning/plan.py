"""Plan of a run, from the manifest's footers and what the run folder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dstc.engines.registry import find_engine
from dstc.errors import ManifestError, SettingsError
from dstc.manifests.build_hint import with_hint
from dstc.planning.append import in_run_order
from dstc.planning.kept_parts import find_kept_parts, refuse_other_rows
from dstc.planning.label_columns import check_label_columns
from dstc.planning.run_identity import Job, existing_job, plan_job
from dstc.planning.settings import Settings
from dstc.store.duplicates import Duplicates
from dstc.store.ledger import Ledger
from dstc.store.manifest import Manifest, open_manifest

if TYPE_CHECKING:
    from dstc_engine.weights.registry import Weights


@dataclass(frozen=True)
class Plan:
    """The plan of a run: its settings, its manifest, and the shards to run.

    Attributes:
        settings: of the run. manifest: checked. job: what the run is, new or continued.
        duplicates: rows whose id an earlier row has.
        pending: numbers of the shards to run, ascending.
        rows_done: rows of the shards that are not pending.
        is_new: the run folder does not exist yet.
        ledger: counts of the shards that are not pending.
        damaged: parts that count as missing, each with its name and the reason.
        weights: records of the networks' weights.
    """

    settings: Settings
    manifest: Manifest
    job: Job
    duplicates: Duplicates
    pending: Sequence[int]
    rows_done: int
    is_new: bool
    ledger: Ledger
    weights: Sequence[Weights]
    damaged: Sequence[str] = ()


def make_plan(settings: Settings) -> Plan:
    """Checks everything that can be checked before anything is written or started.

    Raises:
        UserError: arguments, manifest, weights or output folder that cannot be used.
    """
    weights = _weights_of(settings)
    try:
        manifest = open_manifest(
            settings.manifest,
            settings.rows_per_shard,
            limit=settings.limit,
            columns=settings.columns,
        )
    except ManifestError as error:
        raise with_hint(error, settings.manifest) from error
    check_label_columns(settings.label_columns, manifest.schema)
    planned = plan_job(settings, manifest, weights)
    manifest, planned = in_run_order(manifest, planned, settings.append)
    plan = Plan(
        settings=settings,
        manifest=manifest,
        job=planned,
        duplicates=manifest.duplicates(),
        pending=[],
        rows_done=0,
        is_new=True,
        ledger=Ledger(planned.run),
        weights=weights,
    )
    plan = what_is_left(plan)
    refuse_other_rows(plan.job.run, manifest, plan.ledger)
    return plan


def what_is_left(plan: Plan) -> Plan:
    """The plan, brought up to date with what the run folder holds at this moment.

    Raises:
        RunFolderError: the folder belongs to another run, or cannot be read.
    """
    manifest = plan.manifest
    existing = existing_job(plan.job)
    job, done, ledger = existing or plan.job, set[int](), Ledger(plan.job.run)
    damaged: list[str] = []
    if existing:
        kept = find_kept_parts(job.run, manifest)
        done, ledger = kept.done, kept.ledger
        cut = existing.cut_shards(manifest)
        damaged = [why for shard, why in sorted(kept.damaged.items()) if shard not in cut]
    if existing and plan.settings.retry:
        shards_with = {
            "failed": ledger.failed_shards,
            "rejected": ledger.rejected_shards,
            "flagged": ledger.flagged_shards,
        }
        done -= set(shards_with[plan.settings.retry]())
    pending = manifest.shards_without(done)
    ledger.forget(pending)
    return dataclasses.replace(
        plan,
        job=job,
        pending=pending,
        rows_done=manifest.rows_of(done),
        is_new=existing is None,
        ledger=ledger,
        damaged=damaged,
    )


def _weights_of(settings: Settings) -> Sequence[Weights]:
    """The weights that the engine's images depend on; a run is told apart by their sums."""
    weights = find_engine(settings.engine).weights(settings)
    for record in weights:
        if record.sha256 is None:
            raise SettingsError(
                f"--engine {settings.engine}: its weights {record.name!r} have no sha256; expected "
                "one, since other weights make another run"
            )
    return weights
