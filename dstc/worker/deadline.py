"""Runs what may never end, and waits for it no longer than so long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, action: Callable[[], Result]) -> Result:
    """What an action returns or raises, if it ends in time.

    It runs in a thread of its own. Python cannot stop a thread: one that is late goes on until it
    ends by itself, and nobody waits for it, not even the end of the process.

    Raises:
        TimeoutError: it did not end in time.

    Example:
        image = within(300, lambda: decode(read(uri)))
    """
    ended: Future[Result] = Future()

    def run() -> None:
        try:
            ended.set_result(action())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    try:
        return ended.result(seconds)
    except TimeoutError:
        if ended.done():  # its own error, of this type
            raise
        raise TimeoutError(f"not ended within {seconds:g} s") from None
