"""Waits for several futures by a call, in no thread of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


def when_all(futures: Sequence[Future[Any]], then: Callable[[], object]) -> None:
    """Calls `then` once, when the last of them is done."""
    left = itertools.count(len(futures) - 1, -1)
    for future in futures:
        future.add_done_callback(lambda _: then() if next(left) == 0 else None)
