"""What each driver does around its work on a run folder: takes the lease, and says how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from dstc.driver.lease import Lease
from dstc.driver.signals import end_on_signals, interrupter
from dstc.errors import JobError, RunFolderError
from dstc.text import describe


@contextlib.contextmanager
def driving(
    lease: Lease, on_wait: Callable[[str], None], on_no_conditions: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Takes the lease, and keeps it for the block, which gets what interrupts it.

    Args:
        on_wait: called with the holder, where another driver may be at work.
        on_no_conditions: called with the folder, where storage cannot keep two drivers apart.

    Raises:
        RunFolderError: the folder cannot be written, or another driver has it.
    """
    with end_on_signals():
        try:
            lease.take(on_wait=on_wait)
            if not lease.has_conditions:
                on_no_conditions(lease.shown)
        except OSError as error:
            raise RunFolderError(
                f"output {lease.shown} cannot be written: {describe(error)}"
            ) from error
        interrupt = interrupter()
        with lease.kept(on_lost=interrupt):
            yield interrupt


@contextlib.contextmanager
def telling_ends(lease: Lease) -> Iterator[None]:
    """Says why a block ended that storage or a lost lease has ended.

    Raises:
        JobError: either of them; the same command continues.
    """
    try:
        yield
    except OSError as error:
        raise JobError(
            f"storage does not answer: {describe(error)}. What is done is kept; the same command "
            "continues"
        ) from error
    except KeyboardInterrupt:
        if lease.is_lost:
            raise JobError(
                f"output {lease.shown}: {lease.why_lost}. This driver ends; what is done is kept, "
                "and the same command continues"
            ) from None
        raise
