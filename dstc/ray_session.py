"""Ray for a command: joins a cluster or starts one here, and reads errors that come out of it."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.data

from dstc.errors import JobError
from dstc.planning.settings import Settings
from dstc.ray_address import check_address, no_cluster
from dstc.ray_errors import innermost, without_advice
from dstc_engine.errors import DstcError

_LEVEL = "RAY_BACKEND_LOG_LEVEL"


@contextlib.contextmanager
def running_ray(address: str | None, on_start: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Ray for the block: the one that runs in this process already, else as `start_ray` has it.

    Args:
        on_start: called when it was started here, and so is ended with the block.
    """
    own_ray = not ray.is_initialized()
    try:
        if own_ray:
            start_ray(address)
            on_start()
        yield
    finally:
        if own_ray:
            ray.shutdown()


def start_ray(address: str | None, **options: Any) -> None:
    """Joins a running cluster, or starts Ray on this machine for this process alone.

    Args:
        address: of the cluster, or None to start one.
        options: for `ray.init`.

    Raises:
        SettingsError: no cluster answers at the address, or it wants another token.
        JobError: Ray does not start here.
    """
    # Ray's news of itself would drown ours; its logs stay in its session folder.
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # ours says it in one line
    options = {"logging_level": logging.ERROR, "log_to_driver": False, **options}
    if address:
        check_address(address)
        try:
            with _quiet_core():
                ray.init(address=address, **options)
        except ConnectionError as error:
            raise no_cluster(address) from error
        return
    try:
        with _quiet_core():
            ray.init(address="local", include_dashboard=False, **options)
    except Exception as error:  # of no type of its own
        # Ray gives its daemons 30 seconds, fixed, which a very busy machine exceeds.
        raise JobError(
            f"Ray does not start on this machine, which may be too busy: {error}. The same "
            "command tries again"
        ) from error


@contextlib.contextmanager
def _quiet_core() -> Iterator[None]:
    """Ray's C++ core starts at level `fatal`, unless one is given, and does not say so.

    It tells the level that it takes from the environment in a line of level "info", written to file
    descriptor 2 before that level counts. Whatever else is written there comes when Ray is up.
    Afterwards the environment is as it was: other commands that this process starts are none of it.
    """
    if _LEVEL in os.environ:
        yield
        return
    os.environ[_LEVEL] = "fatal"
    stderr = os.dup(2)
    # Not a pipe: daemons inherit it, and would be killed by writing to one that nobody reads.
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            del os.environ[_LEVEL]
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            for line in said:
                if b"Set ray log level from environment variable" not in line:
                    os.write(2, line)


def own_error_in(error: BaseException | None) -> DstcError | None:
    """An error of ours inside Ray's wrappers, such as weights that a worker lacks."""
    while error is not None:
        cause = getattr(error, "cause", None)
        # Ray's own class of both: its text is a traceback, the error inside has ours.
        if isinstance(error, DstcError) and not isinstance(cause, DstcError):
            error.args = tuple(
                without_advice(value) if isinstance(value, str) else value for value in error.args
            )
            return error
        error = cause or error.__cause__
    return None


def job_error(error: BaseException, what: str) -> DstcError:
    """How a command ends for an error that came out of Ray.

    Args:
        error: of Ray, which wraps and re-raises in a dozen unrelated types.
        what: broke, for example "the job".

    Returns:
        The error of ours inside it, or else a `JobError` with the innermost cause.
    """
    own = own_error_in(error)
    if own is not None:
        return own
    reason = innermost(error)
    return JobError(f"{what} broke: {reason}. What is done is kept; the same command continues")


def cluster_gpus() -> int:
    """GPUs of the Ray that is running."""
    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def choose_device(asked: str, gpus: int) -> str:
    """ "cuda" or "cpu", by `--device` and by how many GPUs there are."""
    return "cuda" if asked == "cuda" or (asked == "auto" and gpus > 0) else "cpu"


def set_data_context(settings: Settings) -> None:
    """Options of Ray Data, set before the first dataset copies them."""
    context = ray.data.DataContext.get_current()
    # Rows carry their place, so shards may end in any order.
    context.execution_options.preserve_order = False
    # Every row is a block: each shard is handed on, retried and written by itself.
    context.target_max_block_size = 1
    # Ray only sees whole shards, and its guard would end jobs whose shards take their time. The
    # driver's own (`driver/standstill.py`) sees each row and each step.
    context.execution_no_progress_timeout_s = -1
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


def cluster_address(address: str | None) -> str | None:
    """The cluster to join: the one given, else that of RAY_ADDRESS; None starts one here."""
    return address or os.environ.get("RAY_ADDRESS")
