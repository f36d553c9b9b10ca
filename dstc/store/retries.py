"""Tries an action of storage again after errors that another attempt may mend."""

from __future__ import annotations

import errno
import itertools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Patience:
    """How long to keep trying.

    Attributes:
        seconds: no new attempt after them.
        attempts: made in any case, however long each takes.
        variable: environment variable that gives other seconds.
    """

    seconds: float
    attempts: int = 3
    variable: str | None = None

    def until(self, start: float) -> float:
        """The deadline, on the clock of `start`."""
        given = os.environ.get(self.variable) if self.variable else None
        return start + (float(given) if given else self.seconds)


# A person waits for the answer: a mistyped endpoint has to be told soon.
PROMPT = Patience(5)
# An image that cannot be fetched costs its row only, and many threads may wait for one host.
FETCH = Patience(60, variable="DSTC_FETCH_PATIENCE_S")
# What is written, or read to go on, is hours of work: outages of a few minutes are sat out.
STEADY = Patience(300, variable="DSTC_STORAGE_PATIENCE_S")


class DeadlinePassed(TimeoutError):
    """The time for all attempts together is over."""


# Errors that another attempt cannot mend. Everything else that storage raises (throttling, resets,
# timeouts, 5xx) is tried again; their types differ from driver to driver.
_PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    DeadlinePassed,
    ImportError,
    TypeError,
    ValueError,
)
_PERMANENT_NUMBERS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSYS}
)
# Of drivers, by name: theirs are no subclasses of Python's own, and not all are installed.
_PERMANENT_NAMES = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "ParamValidationError",
        "InvalidRegionError",
    }
)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _PERMANENT) or type(error).__name__ in _PERMANENT_NAMES:
        return False
    if isinstance(error, OSError) and error.errno in _PERMANENT_NUMBERS:
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 425, 429)
    return True


class Watcher(Protocol):
    """Observer of bytes to and from storage, and of retries."""

    def moved(self, direction: str, size: int) -> None:
        """So many bytes were "read" or "written"."""

    def storage_retry(self) -> None:
        """A call is tried again."""


_watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Sets the observer of storage for this process."""
    global _watcher
    _watcher = watcher


def note_moved(direction: str, size: int) -> None:
    """Reports bytes that were "read" or "written" to the observer."""
    if _watcher is not None:
        _watcher.moved(direction, size)


def with_retries(
    action: Callable[[], Result],
    patience: Patience = PROMPT,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Runs an action of storage, again after transient errors, with growing jittered pauses.

    Args:
        action: to be run; again and again it must do the same.
        patience: how long to keep trying.
        sleep, clock: of the system.

    Raises:
        OSError: what the action raised, at once when another attempt cannot mend it, else when
            patience ended. A driver's own type is the cause of an OSError with its text.
        ImportError, TypeError, ValueError: as the action raised them.
    """
    end = patience.until(clock())
    pause = FIRST_PAUSE_S
    for attempt in itertools.count(1):
        try:
            return action()
        except Exception as error:
            is_last = attempt >= patience.attempts and clock() + pause > end
            if is_last or not _is_transient(error):
                if isinstance(error, (OSError, *_PERMANENT)):
                    raise
                raise OSError(f"{type(error).__name__}: {error}") from error
        if _watcher is not None:
            _watcher.storage_retry()
        # Jitter, so that a thousand workers that were throttled together do not return so.
        sleep(random.uniform(0.5, 1.0) * pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    raise AssertionError("the loop above only ends by return or raise")
