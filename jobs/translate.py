"""The main job: translates every row of a manifest into a run folder.

    dstc translate MANIFEST OUTPUT            on this machine, or on a cluster with --address
    python jobs/translate.py MANIFEST OUTPUT  the same, as the entrypoint of `ray job submit`

`build_pipeline` is the table of contents.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: the packages lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import ray
import ray.data

from dstc_engine.errors import UserError
from jobs import progress
from jobs.closing import summarise
from jobs.errors import JobError, SettingsError
from jobs.settings import Settings
from jobs.store import storage
from jobs.store.duplicates import Duplicates
from jobs.store.manifest import Manifest, ManifestShards, open_manifest
from jobs.store.results import RESERVED_COLUMNS, ResultParts
from jobs.store.run_folder import (
    Job,
    existing_job,
    failed_shards,
    open_or_create,
    plan_job,
)
from jobs.terminal import ProgressLine, print_closing, print_plan
from jobs.translate_shard import ShardTask, TranslateShard

if TYPE_CHECKING:
    from dstc_engine.weights.registry import Weights

OK, SOME_FAILED = 0, 3


# Actors on a machine without GPUs, unless --actors says otherwise.
CPU_ACTORS = 4


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        settings: of the run. manifest: checked. job: what the run is, new or continued.
        duplicates: rows whose id an earlier row has.
        pending: numbers of the shards to run, ascending.
        rows_done: rows of the shards that are not pending.
        is_new: the run folder does not exist yet.
        weights: records of the networks' weights.
    """

    settings: Settings
    manifest: Manifest
    job: Job
    duplicates: Duplicates
    pending: Sequence[int]
    rows_done: int
    is_new: bool
    weights: Sequence[Weights]


@dataclass(frozen=True)
class Workers:
    """The actors of a run. cpu_threads: of torch in each, 0 for its own choice."""

    actors: int
    device: str
    cpu_threads: int

    def task(self, plan: Plan) -> ShardTask:
        """What each actor is made with."""
        return ShardTask(
            settings=plan.settings,
            run=plan.job.run,
            run_id=plan.job.run_id,
            picture_fingerprint=plan.job.picture_fingerprint,
            device=self.device,
            cpu_threads=self.cpu_threads,
        )


def build_pipeline(plan: Plan, workers: Workers, row_count: Any) -> tuple[ray.data.Dataset, Any]:
    """The job as one chain; nothing runs until its second part, the sink, is written to."""
    set_data_context(plan.settings)
    source = ManifestShards(plan.manifest, plan.pending, plan.duplicates)
    shards = ray.data.read_datasource(
        source,
        # One block for each shard. Ray would cut the blocks of fewer tasks than it expects.
        override_num_blocks=len(source.reads),
    )
    results = shards.map_batches(
        TranslateShard,
        fn_constructor_args=(workers.task(plan), row_count),
        batch_size=1,  # one row is one whole shard
        batch_format="pyarrow",
        # No CPU of its own: on two cores the reads could otherwise never start. It also differs
        # from the reads' 1, without which Ray would fuse them into the actor: 256 shards a call.
        num_cpus=0,
        num_gpus=1 if workers.device == "cuda" else None,
        compute=ray.data.ActorPoolStrategy(
            size=workers.actors,
            # While the older shard's tail finishes, the newer one fills the free slots.
            max_concurrent_calls_per_actor=plan.settings.shards_at_once,
            # One more than run: the next shard is at hand when one ends.
            max_tasks_in_flight_per_actor=2 * plan.settings.shards_at_once,
            enable_true_multi_threading=True,
        ),
    )
    return results, ResultParts(plan.job.run)


def set_data_context(settings: Settings) -> None:
    """Options of Ray Data, set before the first dataset copies them."""
    context = ray.data.DataContext.get_current()
    # Rows carry their place, so shards may end in any order.
    context.execution_options.preserve_order = False
    # Every row is a block: each shard is handed on, retried and written by itself.
    context.target_max_block_size = 1
    # The default of 30 minutes kills jobs whose shards simply take longer. Ten minutes a row is
    # far beyond any, and a job that stands still for so long does end.
    context.execution_no_progress_timeout_s = max(3600, 600 * settings.rows_per_shard)
    # Rows are our concern; an exception out of a block is a mistake, and dropping it loses rows.
    context.max_errored_blocks = 0
    context.max_consecutive_actor_init_deaths = 3
    context.wait_for_min_actors_s = -1
    context.retried_io_errors = [
        *context.retried_io_errors,
        "SlowDown",
        "Please reduce your request rate",
        "RequestTimeout",
        "Connection reset",
    ]
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def make_plan(settings: Settings) -> Plan:
    """Checks everything that can be checked before anything is written or started.

    Raises:
        UserError: arguments, manifest, weights or output folder that cannot be used.
    """
    weights = _weights_of(settings) if settings.engine == "guided" else []
    manifest = open_manifest(
        settings.manifest,
        settings.rows_per_shard,
        limit=settings.limit,
        reserved=RESERVED_COLUMNS,
    )
    planned = plan_job(settings, manifest, weights)
    existing = existing_job(planned)
    job = existing or planned
    done = existing.done_shards(manifest) if existing else set()
    if settings.retry == "failed":
        done -= set(failed_shards(job.run, done))
    return Plan(
        settings=settings,
        manifest=manifest,
        job=job,
        duplicates=manifest.duplicates(),
        pending=[number for number in range(manifest.shards) if number not in done],
        rows_done=sum(manifest.shard(number).rows for number in done),
        is_new=existing is None,
        weights=weights,
    )


def _weights_of(settings: Settings) -> list[Weights]:
    """The weights of the preset, each with its sum, since a run is told apart by them."""
    from dstc_engine.weights import registry

    found = []
    for weights in registry.weights_of(settings.resolved_preset):
        # Known sums are checked by the actors, where the files are needed. Here too when the
        # actors run here: a missing file then shows at once, not after Ray has started.
        if weights.sha256 is None or not _cluster_address(settings):
            path = registry.verify(weights.name)
            weights = dataclasses.replace(weights, sha256=registry.file_sha256(path))
        found.append(weights)
    return found


def _cluster_address(settings: Settings) -> str | None:
    return settings.address or os.environ.get("RAY_ADDRESS")


def run(settings: Settings, dry_run: bool = False) -> int:
    """Runs the job, or only says what it would do.

    Args:
        settings: of the run.
        dry_run: print the plan; nothing is started or written.

    Returns:
        The exit code: 0 all rows done or rejected, 3 some failed.

    Raises:
        UserError: arguments, manifest, weights or output folder that cannot be used.
        JobError: the job broke; the same command continues it.
    """
    plan = make_plan(settings)
    if dry_run:
        print_plan(plan)
        return OK
    open_or_create(plan.job)
    started = time.monotonic()
    if plan.pending:
        _run_pipeline(plan)
    summary = summarise(plan, time.monotonic() - started)
    print_closing(summary, plan.job.run)
    return SOME_FAILED if summary.failed else OK


def _run_pipeline(plan: Plan) -> None:
    own_ray = not ray.is_initialized()
    try:
        if own_ray:
            start_ray(_cluster_address(plan.settings))
        workers = choose_workers(plan.settings, len(plan.pending))
        row_count = progress.start_row_count()
        results, sink = build_pipeline(plan, workers, row_count)
        with ProgressLine(plan.manifest.rows, plan.rows_done, row_count):
            results.write_datasink(sink)
    except UserError:
        raise
    except Exception as error:  # Ray wraps and re-raises in a dozen unrelated types
        cause = _user_error_in(error)
        if cause is not None:
            raise cause from error
        raise JobError(
            f"the job broke: {storage.redact(_last_line(error))}. What is done is kept; the same "
            "command continues"
        ) from error
    finally:
        if own_ray:
            ray.shutdown()


def start_ray(address: str | None, **options: Any) -> None:
    """Joins a running cluster, or starts Ray on this machine for this process alone.

    Args:
        address: of the cluster, or None to start one.
        options: for `ray.init`.

    Raises:
        SettingsError: no cluster answers at the address.
        JobError: Ray does not start here.
    """
    # Ray's news of itself would drown ours; its logs stay in its session folder.
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options = {"logging_level": logging.ERROR, "log_to_driver": False, **options}
    if address:
        try:
            ray.init(address=address, **options)
        except ConnectionError as error:
            raise SettingsError(f"--address {address}: no Ray cluster answers there") from error
        return
    try:
        ray.init(address="local", include_dashboard=False, **options)
    except Exception as error:  # of no type of its own
        # Ray gives its daemons 30 seconds, fixed, which a very busy machine exceeds.
        raise JobError(
            f"Ray does not start on this machine, which may be too busy: {error}. The same "
            "command tries again"
        ) from error


def choose_workers(settings: Settings, shards: int) -> Workers:
    """How many actors, and on what, for so many pending shards.

    Raises:
        SettingsError: more actors than this machine has GPUs.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    wants_gpu = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
    device = "cuda" if wants_gpu and settings.engine == "guided" else "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device == "cuda":
        usual = max(gpus, 1)
    else:
        # The fake engine only sleeps. Each real one holds its networks in memory, hence the limit.
        usual = min(cores or 1, shards, CPU_ACTORS) if settings.engine == "guided" else 1
    actors = settings.actors or usual
    if device == "cuda" and not _cluster_address(settings) and actors > gpus:
        raise SettingsError(f"--actors {actors}: found {gpus} GPUs here; expected at most as many")
    # One thread each: two share a product of odd height unevenly, and a row's last bits then depend
    # on its slot (seen at S = 3). Cores are kept busy by actors instead.
    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
    return Workers(actors=actors, device=device, cpu_threads=threads)


def _user_error_in(error: BaseException | None) -> UserError | None:
    """The caller's own mistake inside Ray's wrappers, such as weights that a worker lacks."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"


if __name__ == "__main__":
    from jobs.cli import main

    main(["translate", *sys.argv[1:]])
