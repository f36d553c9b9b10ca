"""Ends a run on signals as Ctrl-C would: what is at hand is kept, and Ray is shut down."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """The process was told to end, as a scheduler or `ray job stop` does."""


@contextlib.contextmanager
def end_on_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C would: what is at hand is kept, and Ray is shut down.

    Ray sets a handler of its own when it starts, which ends the process on the spot; so this one is
    set again by each `listen_for_end`. SIGINT gets Python's own: this driver sends itself one when
    a run cannot go on (`interrupter`), and must hear it also where Ray Train left its handler
    behind, or where a script started it in the background, with SIGINT ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    listen_for_end()
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # of a library in C, which Python cannot set again
                signal.signal(number, handler)


def listen_for_end() -> None:
    """SIGTERM raises `Terminated` in the main thread from now on."""

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end is on its way
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def interrupter() -> Callable[[], None]:
    """Ends what this thread does as Ctrl-C would; a signal is all that wakes it out of Ray."""
    thread = threading.get_ident()
    return lambda: signal.pthread_kill(thread, signal.SIGINT)
