"""The innermost cause, out of errors as Ray 2.60 hands them to the driver."""

from __future__ import annotations

import time

import pytest
import ray.exceptions

from dstc.errors import ManifestError
from dstc.ray_errors import innermost
from dstc.ray_session import job_error, own_error_in
from dstc.worker.named_rows import naming_rows

ADVICE = (
    "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry "
    "attempts, backoff, or which errors are retried, configure "
    "`ray.data.DataContext.get_current()` (`retried_io_errors` for I/O; `retried_map_errors` and "
    "`max_map_retries` for any task) if you believe this to be transient."
)
FRAMES = (
    'Traceback (most recent call last):\n  File "a.py", line 4, in read\n    int("x")\n    ^^^\n'
)
CHAINED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
CONTEXT = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
RAYS_HEAD = (
    "\x1b[36mray::MapWorker(MapBatches(TranslateShard)).submit()\x1b[39m (pid=12310, ip=192.0.2.2, "
    "actor_id=699d0e19, repr=MapWorker(MapBatches(TranslateShard)))\n"
)
DEAD_ACTOR = """\
The actor died unexpectedly before finishing this task.
\tclass_name: MapWorker
\tactor_id: c86ade66a7cf9e3ec2e54e6001000000
\tpid: 13416
\tnamespace: 78d2e7fe
\tip: 192.0.2.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop \
--force was called. If the process was killed by the kernel OOM killer, consider enabling it."""
NO_MEMORY = """\
Task was killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2) was 15.28GB / 16.00GB (0.955), which exceeds the memory usage \
threshold of 0.95. Ray killed this worker because it was the last; to see more information about \
memory usage on this node, use `ray logs raylet.out`. Top 10 memory users:
PID\tMEM(GB)\tCOMMAND
Refer to the documentation: https://docs.ray.io/memory"""


def of_task(text: str, cause: Exception | None = None) -> ray.exceptions.RayTaskError:
    error = ray.exceptions.RayTaskError("f", text, cause or ValueError("x"), "ray", 1, "192.0.2.2")
    assert isinstance(error, ray.exceptions.RayTaskError)
    return error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # A UDF: the cause, our words about it, Ray's.
        (
            f"{RAYS_HEAD}KeyError: 'x\\x1b[31m'\nmanifest rows 32 to 47 (shard 2){CHAINED}"
            f"{FRAMES}ValueError: outer{CHAINED}"
            f"{RAYS_HEAD}ray.exceptions.UserCodeException: UDF failed to process a data block.\n"
            f"{ADVICE}",
            r"KeyError: 'x\x1b[31m'; manifest rows 32 to 47 (shard 2)",
        ),
        # A read: Ray writes its advice into the message, before the notes.
        (
            f"{FRAMES}pyarrow.lib.ArrowInvalid: no integer\nin a cell\n{ADVICE}\nmanifest row 9",
            "ArrowInvalid: no integer; in a cell; manifest row 9",
        ),
        # Into the arguments of an OSError, of a KeyError, of one with a number.
        (
            f"{FRAMES}OSError: {OSError(28, 'No space left on device', ADVICE)}",
            "OSError: [Errno 28] No space left on device",
        ),
        (f"{FRAMES}KeyError: {KeyError(f'x{chr(10)}{ADVICE}')}", "KeyError: 'x'"),
        (f"{FRAMES}KeyError: {KeyError(5, ADVICE)}", "KeyError: (5)"),
        # Without a message; with escapes; raised while another was handled.
        (f"{FRAMES}dstc.errors.JobError\n", "JobError"),
        (
            f"{FRAMES}ValueError: a\x1b]8;;http://x\x07b\u202e",
            r"ValueError: a\x1b]8;;http://x\x07b\u202e",
        ),
        (f"{FRAMES}KeyError: 1{CONTEXT}{FRAMES}ValueError: 2", "ValueError: 2"),
        # A task that another waited for.
        (
            f"{FRAMES}ray.exceptions.RayTaskError(KeyError): \x1b[36mray::g()\x1b[39m (pid=3, "
            f"ip=192.0.2.3)\n  File \"x\", line 3, in g\nKeyError: 'deep'",
            "KeyError: 'deep'",
        ),
    ],
)
def test_of_a_task(text: str, said: str) -> None:
    assert innermost(of_task(text)) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ray.exceptions.RayActorError("a", DEAD_ACTOR, False, False),
            "RayActorError: The actor died unexpectedly before finishing this task. The actor is "
            "dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
            "detail: Worker unexpectedly exits with a connection error code 2. End of file",
        ),
        (
            ray.exceptions.RayActorError(
                "a",
                "The actor died because of an error raised in its creation task, "
                f'{RAYS_HEAD}        ^^^^\n  File "w.py", line 7, in f\nRuntimeError: no weights',
                True,
                False,
            ),
            "RuntimeError: no weights",
        ),
        (
            ray.exceptions.OutOfMemoryError(NO_MEMORY),
            "OutOfMemoryError: Task was killed due to the node running low on memory. Memory on "
            "the node (IP: 192.0.2.2) was 15.28GB / 16.00GB (0.955), which exceeds the memory "
            "usage threshold of 0.95. Ray killed this worker because it was the last",
        ),
        (
            ray.exceptions.WorkerCrashedError(),
            "WorkerCrashedError: The worker died unexpectedly while executing this task",
        ),
        (ValueError("s3://key:secret@bucket/x?sig=1"), "ValueError: s3://bucket/x?..."),
    ],
)
def test_of_other_errors(error: Exception, said: str) -> None:
    assert innermost(error) == said


def test_a_long_message_is_cut_and_takes_no_time() -> None:
    began = time.monotonic()
    told = innermost(of_task(f"{FRAMES}ValueError: " + "Failed to x after 1/1 attempts (" * 40_000))
    assert len(told) < 510 and time.monotonic() - began < 2


def test_the_last_line_of_a_job() -> None:
    error = job_error(of_task(f"{FRAMES}KeyError: 'x'"), "the job")
    assert (
        str(error)
        == "the job broke: KeyError: 'x'. What is done is kept; the same command continues"
    )


def test_an_error_of_ours_keeps_its_own_words() -> None:
    ours = ManifestError(f"manifest file a.parquet: found 3 rows\n{ADVICE}")
    wrapped = of_task(f"{FRAMES}{ours}", ours).as_instanceof_cause()  # type: ignore[no-untyped-call]
    assert isinstance(wrapped, ManifestError)
    for error in (ours, wrapped):
        found = own_error_in(error)
        assert type(found) is ManifestError
        assert str(found) == "manifest file a.parquet: found 3 rows"


@pytest.mark.parametrize(
    ("rows", "shard", "note"),
    [(1, None, "manifest row 7"), (4, 2, "manifest rows 7 to 10 (shard 2)")],
)
def test_rows_are_named(rows: int, shard: int | None, note: str) -> None:
    with pytest.raises(KeyError) as raised, naming_rows(7, rows, shard):
        raise KeyError("x")
    assert raised.value.__notes__ == [note]
    assert innermost(raised.value) == f"KeyError: 'x'; {note}"


def test_rows_are_named_where_the_chain_begins() -> None:
    cause = KeyError("x")
    with pytest.raises(ValueError) as raised, naming_rows(7, 1):
        raise ValueError("outer") from cause
    assert cause.__notes__ == ["manifest row 7"] and not hasattr(raised.value, "__notes__")
    with pytest.raises(KeyError), naming_rows(8, 1):
        raise cause from cause
    assert cause.__notes__ == ["manifest row 7", "manifest row 8"]
