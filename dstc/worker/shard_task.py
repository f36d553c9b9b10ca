"""Arguments of every actor of a run."""

from __future__ import annotations

from dataclasses import dataclass

from dstc.planning.settings import Settings
from dstc.store.run_folder import RunFolder


@dataclass(frozen=True)
class ShardTask:
    """Arguments of every actor of a run; small, since Ray ships them to each.

    Attributes:
        settings: of the run. run: its folder. run_id, image_fingerprint: of its job.
        device: "cuda" or "cpu". cpu_threads: of torch in one actor; 0 leaves torch's own choice.
        weights: the driver's bucket of weights, for actors whose node names no place of its own.
    """

    settings: Settings
    run: RunFolder
    run_id: str
    image_fingerprint: str
    device: str = "cpu"
    cpu_threads: int = 0
    weights: str | None = None
