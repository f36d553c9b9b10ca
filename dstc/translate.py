"""The main job: translates every row of a manifest into a run folder.

    dstc translate MANIFEST OUTPUT            on this machine, or on a cluster with --address
    python jobs/translate.py MANIFEST OUTPUT  the same, as the entrypoint of `ray job submit`

`build_pipeline` is the table of contents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
import ray.data

from dstc.driver.driving import driving, telling_ends
from dstc.driver.lease import Lease
from dstc.driver.monitor import Monitor
from dstc.driver.signals import end_on_signals, listen_for_end
from dstc.driver.slot_count import with_measured_slots, with_recorded_slots
from dstc.driver.summary import Summary, summarize_run
from dstc.driver.terminal import (
    ProgressLine,
    print_appended,
    print_closing,
    print_damaged,
    print_no_conditions,
    print_plan,
    print_waiting,
)
from dstc.engines.registry import find_engine
from dstc.errors import JobError, StorageError
from dstc.manifests.check import check_first_rows
from dstc.manifests.show import print_findings
from dstc.planning.plan import Plan, make_plan, what_is_left
from dstc.planning.run_identity import open_or_create, plan_job
from dstc.planning.settings import Settings
from dstc.planning.workers import Workers, choose_workers, likely_device
from dstc.ray_session import (
    cluster_address,
    job_error,
    running_ray,
    set_data_context,
)
from dstc.store import weights_bucket
from dstc.store.images_note import write_images_note
from dstc.store.ledger import Ledger
from dstc.store.row_order import in_file_order
from dstc.store.storage import local_folder
from dstc.store.temporary_files import swept
from dstc.text import describe, redact, visible
from dstc.worker.read_shards import ManifestShards
from dstc.worker.row_count import start_row_count
from dstc.worker.translate_shard import TranslateShard
from dstc.worker.write_results import ResultParts
from dstc_engine.errors import DstcError, UserError

if TYPE_CHECKING:
    from dstc.planning.cost import Estimate

log = logging.getLogger(__name__)

OK, SOME_FAILED = 0, 3  # 3, too, where more rows are rejected than allowed

# Shows the progress of so many rows while its block runs.
Show = Callable[[int, Monitor], contextlib.AbstractContextManager[object]]


# Reads and writes mostly wait for storage. One core must hold an actor and both of them.
_IO_CPUS = 0.25


def build_pipeline(
    plan: Plan, workers: Workers, row_count: Any, epoch: int = 0
) -> tuple[ray.data.Dataset, Any]:
    """The job as one chain; nothing runs until its second part, the sink, is written to."""
    set_data_context(plan.settings)
    source = ManifestShards(plan.manifest, plan.pending, plan.duplicates)
    shards = ray.data.read_datasource(
        source,
        # One block for each shard. Ray would cut the blocks of fewer tasks than it expects.
        override_num_blocks=len(source.reads),
        num_cpus=_IO_CPUS,
        concurrency=workers.io_tasks_for(len(source.reads)),
    )
    results = shards.map_batches(
        TranslateShard,
        fn_constructor_args=(workers.task(plan), row_count),
        batch_size=1,  # one row is one whole shard
        batch_format="pyarrow",
        # Other than the reads' share: Ray would fuse them into the actor, 256 shards a call.
        num_cpus=workers.cpus,
        num_gpus=1 if workers.device == "cuda" else None,
        compute=ray.data.ActorPoolStrategy(
            min_size=workers.fewest,
            max_size=workers.actors,
            # While the older shard's tail finishes, the newer one fills the free slots.
            max_concurrent_calls_per_actor=plan.settings.shards_at_once,
            # One more than run: the next shard is at hand when one ends, and at the end of a run no
            # actor holds many while another has none. A pool that may grow must seem busier than
            # that: Ray adds an actor when there are 1.75 tasks for each call.
            max_tasks_in_flight_per_actor=plan.settings.shards_at_once + 1
            if workers.fewest == workers.actors
            else 2 * plan.settings.shards_at_once,
            enable_true_multi_threading=True,
        ),
    )
    return results, ResultParts(plan.job.run, row_count, epoch)


def run(
    settings: Settings, dry_run: bool = False, tflops: float | None = None, quiet: bool = False
) -> int:
    """Runs the job, or only says what it would do.

    Args:
        settings: of the run.
        dry_run: print the plan; nothing is started or written.
        tflops: sustained TFLOP/s of one device, for the plan; an assumed rate by default.
        quiet: neither progress nor a closing table; warnings stay.

    Returns:
        The exit code: 0 all rows done or rejected, 3 some failed, or more than
        `settings.max_rejected` of them were rejected.

    Raises:
        UserError: arguments, manifest, weights or output folder that cannot be used.
        JobError: the job broke; the same command continues it.
    """
    started = time.monotonic()
    plan = _planned(settings)
    settings = plan.settings
    print_damaged(plan)
    if dry_run:
        device = likely_device(settings)
        memory = find_engine(settings.engine).step_memory if device == "cuda" else None
        known = memory(settings) if memory else None
        print_plan(plan, _expected_cost(plan, device, tflops), device, known)
        print_findings(check_first_rows(in_file_order(plan.manifest)))
        return OK
    if not quiet:
        print_appended(plan)
    show = _show_nothing if quiet else ProgressLine
    summary = _run_plan(plan, show, print_waiting, print_no_conditions, started)
    print_closing(summary, plan.job.run, settings.max_rejected, quiet)
    too_many = summary.rejected_share > settings.max_rejected
    return SOME_FAILED if summary.failed or too_many else OK


def run_silently(settings: Settings, show: Show | None = None) -> Summary:
    """Runs the job as `run` does, and prints nothing: what `run` prints as warnings is logged.

    Args:
        settings: of the run. show: around the pipeline, gets the rows of the run and its monitor.

    Raises:
        UserError, JobError: as `run`.
    """
    started = time.monotonic()
    plan = _planned(settings)
    for why in plan.damaged:
        log.warning("damaged: %s; the shard runs again", visible(why))
    return _run_plan(
        plan,
        show or _show_nothing,
        lambda holder: log.warning("another driver (%s) has the output folder", visible(holder)),
        lambda output: log.warning("output %s: no conditional writes", visible(output)),
        started,
    )


def _planned(settings: Settings) -> Plan:
    try:
        return make_plan(with_recorded_slots(settings))
    except OSError as error:
        raise StorageError(f"storage does not answer: {describe(error)}") from error


def _show_nothing(rows: int, monitor: Monitor) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext()


def _run_plan(
    plan: Plan,
    show: Show,
    on_wait: Callable[[str], None],
    on_no_conditions: Callable[[str], None],
    started: float,
) -> Summary:
    settings = plan.settings
    if settings.auto_slots:
        with end_on_signals():
            settings = _measured(settings)
        job = plan_job(settings, plan.manifest, plan.weights)
        plan = dataclasses.replace(plan, settings=settings, job=job, ledger=Ledger(job.run))
    lease = Lease(plan.job.run.lease, redact(plan.job.run.uri))
    with telling_ends(lease):
        if plan.pending or plan.job.appends_to is not None:
            with (
                driving(lease, on_wait, on_no_conditions) as interrupt,
                swept(local_folder(plan.job.run.uri)),
            ):
                # Another driver may have ended since the plan was made.
                is_append = plan.job.appends_to is not None
                plan = make_plan(settings) if is_append else what_is_left(plan)
                open_or_create(plan.job, lease.epoch)
                plan.ledger.save()  # before a part changes that it still counts
                write_images_note(plan.job.run, settings.store)
                if plan.pending:
                    _run_pipeline(plan, lease, interrupt, show)
        return summarize_run(plan, time.monotonic() - started)


def _expected_cost(plan: Plan, device: str, tflops: float | None) -> Estimate | None:
    rows = plan.manifest.rows - plan.rows_done
    settings, cost = plan.settings, find_engine(plan.settings.engine).cost
    if not rows or cost is None:
        return None
    from dstc.planning.cost import estimate, measured_seconds_per_row

    pending = set(plan.pending)
    done = [shard for shard in range(plan.manifest.shards) if shard not in pending]
    return estimate(
        cost(settings, "prompt" in plan.manifest.schema.names),
        rows,
        device,
        settings.precision,
        tflops=tflops,
        measured_seconds_per_row=measured_seconds_per_row(plan.job.run, done) if done else None,
        samples=settings.samples_per_row,
    )


def _measured(settings: Settings) -> Settings:
    """The settings with the slots that the GPUs hold; Ray runs for as long as it takes."""
    with running_ray(cluster_address(settings.address), on_start=listen_for_end):
        workers = choose_workers(settings, 1)
        return with_measured_slots(settings, workers.device, weights_bucket.bucket())


def _run_pipeline(plan: Plan, lease: Lease, interrupt: Callable[[], None], show: Show) -> None:
    monitor: Monitor | None = None
    try:
        with running_ray(cluster_address(plan.settings.address), on_start=listen_for_end):
            workers = choose_workers(plan.settings, len(plan.pending))
            row_count = start_row_count()
            results, sink = build_pipeline(plan, workers, row_count, lease.epoch)
            monitor = Monitor(plan, workers, row_count, lease, interrupt)
            # In this order, so that the last line knows of the last snapshot.
            with show(plan.manifest.rows, monitor), monitor:
                results.write_datasink(
                    sink,
                    ray_remote_args={"num_cpus": _IO_CPUS},
                    concurrency=workers.io_tasks_for(len(plan.pending)),
                )
    except KeyboardInterrupt:
        if monitor is not None and monitor.fault:
            raise _ending(monitor.fault) from None
        raise
    except DstcError:
        raise
    except Exception as error:
        if monitor is not None and monitor.fault:
            raise _ending(monitor.fault) from error
        raise job_error(error, "the job") from error


def _ending(fault: DstcError) -> DstcError:
    """How a run ends for what a worker said of its own end."""
    if isinstance(fault, UserError):
        return fault
    return JobError(f"{fault}. What is done is kept; the same command continues")
