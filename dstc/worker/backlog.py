"""Keeps what is translated and not yet written small, since a driver's death loses it.

Ray Data starts write tasks as processes come free. On a machine or a cluster that was short of CPUs
an actor was seen 400 shards ahead of them: minutes of work that no part held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray

log = logging.getLogger(__name__)

# Of one actor. A write task takes some tenths of a second and writes one part, so that in a healthy
# job one or two wait.
MOST_UNWRITTEN = 16
_LOOK_EVERY_S = 1.0
# A comfort, no duty: writers that say nothing for so long may not stop the job.
_PATIENCE_S = 600.0


def wait_for_writers(
    row_count: Any, sleep: Callable[[float], object] = time.sleep, most: float = MOST_UNWRITTEN
) -> float:
    """Returns when the actors are few shards ahead of the writers, or after ten minutes.

    Args:
        row_count: a `RowCount` actor, or None. most: shards ahead, for each actor.

    Returns:
        Seconds that were waited.
    """
    waited = 0.0
    while row_count is not None and waited < _PATIENCE_S:
        try:
            ahead = ray.get(row_count.shards_ahead.remote(), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            break
        if ahead <= most:
            break
        if not waited:
            log.warning("%.0f shards an actor wait to be written; waiting for the writers", ahead)
        sleep(_LOOK_EVERY_S)
        waited += _LOOK_EVERY_S
    return waited
