"""The main job: translates every row of a manifest into a run folder.

    dstc translate MANIFEST OUTPUT            on this machine, or on a cluster with --address
    python jobs/translate.py MANIFEST OUTPUT  the same, as the entrypoint of `ray job submit`

`build_pipeline` is the table of contents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import ray
import ray.data

from dstc.driver.lease import Lease
from dstc.driver.monitor import Watch
from dstc.driver.slot_count import with_measured_slots, with_recorded_slots
from dstc.driver.summary import summarise
from dstc.driver.terminal import ProgressLine, print_closing, print_plan, print_waiting
from dstc.errors import JobError, RunFolderError, SettingsError, StorageError
from dstc.planning.settings import Settings
from dstc.ray_session import own_error_in, running_ray
from dstc.store import storage, weights_bucket
from dstc.store.duplicates import Duplicates
from dstc.store.ledger import Ledger
from dstc.store.manifest import Manifest, ManifestShards, open_manifest
from dstc.store.results import RESERVED_COLUMNS, ResultParts
from dstc.store.run_folder import Job, existing_job, open_or_create, plan_job
from dstc.worker.row_count import start_row_count
from dstc.worker.translate_shard import ShardTask, TranslateShard
from dstc_engine.errors import DstcError, UserError

if TYPE_CHECKING:
    from dstc.planning.cost import Estimate
    from dstc_engine.weights.registry import Weights

OK, SOME_FAILED = 0, 3


# Actors on one machine without GPUs, unless --actors says otherwise.
CPU_ACTORS = 4
# A CPU actor keeps a core busy, and asks a cluster for half of one: enough to be spread over nodes
# and kept off a head that offers none, and on full nodes there is room for reads and writes.
_ACTOR_CPUS = 0.5
# Reads and writes mostly wait for storage. One core must hold an actor and both of them.
_IO_CPUS = 0.25


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        settings: of the run. manifest: checked. job: what the run is, new or continued.
        duplicates: rows whose id an earlier row has.
        pending: numbers of the shards to run, ascending.
        rows_done: rows of the shards that are not pending.
        is_new: the run folder does not exist yet.
        ledger: counts of the shards that are not pending.
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


@dataclass(frozen=True)
class Workers:
    """The actors of a run.

    Attributes:
        fewest, actors: how many; where they differ, as many of them as the cluster has room for.
        device: "cuda" or "cpu". cpu_threads: of torch in each, 0 for its own choice.
        cpus: what each asks Ray for.
    """

    fewest: int
    actors: int
    device: str
    cpu_threads: int
    cpus: float

    def task(self, plan: Plan) -> ShardTask:
        """What each actor is made with."""
        return ShardTask(
            settings=plan.settings,
            run=plan.job.run,
            run_id=plan.job.run_id,
            picture_fingerprint=plan.job.picture_fingerprint,
            device=self.device,
            cpu_threads=self.cpu_threads,
            # Nodes need not know it; a path of this machine would mean nothing to them.
            weights=weights_bucket.bucket(),
        )


def build_pipeline(plan: Plan, workers: Workers, row_count: Any) -> tuple[ray.data.Dataset, Any]:
    """The job as one chain; nothing runs until its second part, the sink, is written to."""
    set_data_context(plan.settings)
    source = ManifestShards(plan.manifest, plan.pending, plan.duplicates)
    shards = ray.data.read_datasource(
        source,
        # One block for each shard. Ray would cut the blocks of fewer tasks than it expects.
        override_num_blocks=len(source.reads),
        num_cpus=_IO_CPUS,
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
    return results, ResultParts(plan.job.run, row_count)


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
    return what_is_left(plan)


def what_is_left(plan: Plan) -> Plan:
    """The plan, with what the run folder holds at this moment.

    Raises:
        RunFolderError: the folder belongs to another run, or cannot be read.
    """
    manifest = plan.manifest
    existing = existing_job(plan.job)
    job, done, ledger = existing or plan.job, set[int](), Ledger(plan.job.run)
    if existing:
        done = existing.done_shards(manifest)
        ledger = Ledger.open(job.run)
    if existing and plan.settings.retry:
        ledger.complete(done)
        retry_flagged = plan.settings.retry == "flagged"
        done -= set(ledger.flagged_shards() if retry_flagged else ledger.failed_shards())
    pending = manifest.shards_without(done)
    ledger.forget(pending)
    return dataclasses.replace(
        plan,
        job=job,
        pending=pending,
        rows_done=manifest.rows_of(done),
        is_new=existing is None,
        ledger=ledger,
    )


def _weights_of(settings: Settings) -> list[Weights]:
    """The weights of the preset, each with its sum, since a run is told apart by them."""
    from dstc_engine.weights import fetch, registry

    preset = settings.resolved_preset
    sums = weights_bucket.sums(preset)
    # Other known sums are checked by the actors, where the files are needed. Here too when the
    # actors run here: a missing file then shows at once, not after Ray has started.
    is_here = not _cluster_address(settings)
    if is_here and weights_bucket.bucket() is None:
        fetch.require(preset)
    found = []
    for weights in registry.weights_of(preset):
        sha256 = sums.get(weights.name) or (None if is_here else weights.sha256)
        found.append(dataclasses.replace(weights, sha256=sha256 or fetch.upstream_sum(weights)))
    return found


def _cluster_address(settings: Settings) -> str | None:
    return settings.address or os.environ.get("RAY_ADDRESS")


def run(settings: Settings, dry_run: bool = False, tflops: float | None = None) -> int:
    """Runs the job, or only says what it would do.

    Args:
        settings: of the run.
        dry_run: print the plan; nothing is started or written.
        tflops: sustained TFLOP/s of one device, for the plan; an assumed rate by default.

    Returns:
        The exit code: 0 all rows done or rejected, 3 some failed.

    Raises:
        UserError: arguments, manifest, weights or output folder that cannot be used.
        JobError: the job broke; the same command continues it.
    """
    started = time.monotonic()
    settings = with_recorded_slots(settings)
    try:
        plan = make_plan(settings)
    except OSError as error:
        raise StorageError(f"storage does not answer: {_told(error)}") from error
    if dry_run:
        device = _likely_device(settings)
        print_plan(plan, _expected_cost(plan, device, tflops), device)
        return OK
    if settings.auto_slots:
        with end_on_signals():
            settings = _measured(settings)
        job = plan_job(settings, plan.manifest, plan.weights)
        plan = dataclasses.replace(plan, settings=settings, job=job, ledger=Ledger(job.run))
    lease = Lease(plan.job.run.lease, storage.redact(plan.job.run.uri))
    try:
        if plan.pending:
            with end_on_signals():
                _take(lease)
                interrupt = _interrupter()
                with lease.kept(on_lost=interrupt):
                    # Another driver may have ended since the plan was made.
                    plan = what_is_left(plan)
                    open_or_create(plan.job)
                    plan.ledger.save()  # before a part changes that it still counts
                    if plan.pending:
                        _run_pipeline(plan, lease, interrupt)
        summary = summarise(plan, time.monotonic() - started)
    except OSError as error:
        raise JobError(
            f"storage does not answer: {_told(error)}. What is done is kept; the same command "
            "continues"
        ) from error
    except KeyboardInterrupt:
        if lease.is_lost:
            raise JobError(
                f"another driver has taken over {storage.redact(plan.job.run.uri)}, since this one "
                "could not reach its storage for too long. What is done is kept"
            ) from None
        raise
    print_closing(summary, plan.job.run)
    return SOME_FAILED if summary.failed else OK


def _likely_device(settings: Settings) -> str:
    """Where the networks would live: a dry run starts no Ray that could tell."""
    if settings.device != "auto":
        return settings.device
    if _cluster_address(settings):
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _expected_cost(plan: Plan, device: str, tflops: float | None) -> Estimate | None:
    rows = plan.manifest.rows - plan.rows_done
    if not rows or plan.settings.engine != "guided":
        return None
    from dstc.planning.cost import estimate, measured_seconds_per_row

    pending = set(plan.pending)
    done = [shard for shard in range(plan.manifest.shards) if shard not in pending]
    return estimate(
        plan.settings.resolved_preset,
        rows,
        device,
        plan.settings.precision,
        tflops=tflops,
        measured_seconds_per_row=measured_seconds_per_row(plan.job.run, done) if done else None,
        with_prompt="prompt" in plan.manifest.schema.names,
    )


def _measured(settings: Settings) -> Settings:
    """The settings with the slots that the GPUs hold; Ray runs for as long as it takes."""
    with running_ray(_cluster_address(settings), on_start=_listen):
        workers = choose_workers(settings, 1)
        return with_measured_slots(settings, workers.device, weights_bucket.bucket())


def _take(lease: Lease) -> None:
    try:
        lease.take(on_wait=print_waiting)
    except OSError as error:
        raise RunFolderError(f"output {lease.shown} cannot be written: {_told(error)}") from error


class Terminated(KeyboardInterrupt):
    """The process was told to end, as a scheduler or `ray job stop` does."""


@contextlib.contextmanager
def end_on_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C would: what is at hand is kept, and Ray is shut down.

    Ray sets a handler of its own when it starts, which ends the process on the spot; so this one is
    set again by each `_listen`. SIGINT gets Python's own: this driver sends itself one when a run
    cannot go on (`_interrupter`), and must hear it also where Ray Train left its handler behind, or
    where a script started it in the background, with SIGINT ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # of a library in C, which Python cannot set again
                signal.signal(number, handler)


def _listen() -> None:
    def end(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end is on its way
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _interrupter() -> Callable[[], None]:
    """Ends what this thread does as Ctrl-C would; a signal is all that wakes it out of Ray."""
    thread = threading.get_ident()
    return lambda: signal.pthread_kill(thread, signal.SIGINT)


def _run_pipeline(plan: Plan, lease: Lease, interrupt: Callable[[], None]) -> None:
    watch: Watch | None = None
    try:
        with running_ray(_cluster_address(plan.settings), on_start=_listen):
            workers = choose_workers(plan.settings, len(plan.pending))
            row_count = start_row_count()
            results, sink = build_pipeline(plan, workers, row_count)
            watch = Watch(plan, workers, row_count, lease, interrupt)
            # In this order, so that the last line knows of the last look.
            with ProgressLine(plan.manifest.rows, watch), watch:
                results.write_datasink(sink, ray_remote_args={"num_cpus": _IO_CPUS})
    except KeyboardInterrupt:
        if watch is not None and watch.fault:
            raise _ending(watch.fault) from None
        raise
    except DstcError:
        raise
    except Exception as error:  # Ray wraps and re-raises in a dozen unrelated types
        cause = own_error_in(error)
        if watch is not None and watch.fault:
            raise _ending(watch.fault) from error
        if cause is not None:
            raise cause from error
        raise JobError(
            f"the job broke: {storage.redact(_last_line(error))}. What is done is kept; the same "
            "command continues"
        ) from error


def choose_workers(settings: Settings, shards: int) -> Workers:
    """How many actors, and on what, for so many pending shards.

    Raises:
        SettingsError: more actors than this machine has GPUs.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    wants_gpu = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
    device = "cuda" if wants_gpu and settings.engine == "guided" else "cpu"
    is_cluster = _cluster_address(settings) is not None
    if device == "cuda":
        usual = gpus
    elif settings.engine != "guided":
        usual = 1  # the others only sleep
    elif is_cluster:
        usual = min(int(ray.cluster_resources().get("CPU", 0)), shards)  # type: ignore[no-untyped-call]
    else:
        # Each holds its networks in memory, hence the limit.
        usual = min(_cores(), shards, CPU_ACTORS)
    fewest, actors = settings.actor_range or (max(usual, 1), max(usual, 1))
    if device == "cuda" and not is_cluster and fewest > gpus:
        raise SettingsError(
            f"--actors {settings.actors}: found {gpus} GPUs here; expected at most as many"
        )
    # One thread each: two share a product of odd height unevenly, and a row's last bits then depend
    # on its slot (seen at S = 3). Cores are kept busy by actors instead.
    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
    # On a GPU, that is what counts. On this machine alone, any number asked for must find room.
    cpus = _ACTOR_CPUS if is_cluster and device == "cpu" else 0.0
    return Workers(fewest=fewest, actors=actors, device=device, cpu_threads=threads, cpus=cpus)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ending(fault: DstcError) -> DstcError:
    """How a run ends for what a worker said of its own end."""
    if isinstance(fault, UserError):
        return fault
    return JobError(f"{fault}. What is done is kept; the same command continues")


def _told(error: Exception) -> str:
    return storage.redact(f"{type(error).__name__}: {error}")


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"
