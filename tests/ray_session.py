"""A local Ray for tests, and helpers that read a run folder."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from dstc.ray_session import start_ray

# Ray's own code sets options it deprecated itself, whenever it copies a DataContext.
RAY_WARNINGS = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context")


# What tests set for Ray's processes, which take the environment of the moment Ray starts.
_PASSED_ON = ("AWS_", "DSTC_")
_environment_of_ray: dict[str, str] = {}
# Ray ends idle worker processes beyond its CPUs after a second, and each run would start its own
# again: 13 s a run instead of 6 here.
_KEEP_WORKERS = {
    "num_workers_soft_limit": 12,
    "idle_worker_killing_time_threshold_ms": 600_000,
}


@pytest.fixture(scope="module")
def ray_session(ray_ends: None) -> None:
    """Two logical CPUs, whatever the machine has; ports are Ray's to choose.

    One Ray serves all modules of this process: starting takes 5 s. A module that is in another
    environment, as those with storage of their own are, gets another.
    """
    global _environment_of_ray
    wanted = {name: text for name, text in os.environ.items() if name.startswith(_PASSED_ON)}
    if ray.is_initialized() and wanted == _environment_of_ray:
        return
    end_ray()
    start_ray(None, num_cpus=2, _system_config=_KEEP_WORKERS)
    _environment_of_ray = wanted


@pytest.fixture(scope="module")
def no_ray() -> None:
    """For modules that start a Ray of their own, or copies of this process."""
    end_ray()


@pytest.fixture(scope="session")
def ray_ends() -> Iterator[None]:
    """Ends the shared Ray after the last test of this process."""
    yield
    end_ray()


def end_ray() -> None:
    """Ends the Ray of this process, if there is one."""
    with ray_gone():
        ray.shutdown()


@contextlib.contextmanager
def ray_gone() -> Iterator[None]:
    """Around the end of a Ray.

    Ray drops its daemons' handles without waiting for them. Collected here, they warn here, and not
    in whichever test happens to run when the collector comes round.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()


def result_rows(output: Path) -> list[dict[str, Any]]:
    """All result rows, in the order of shards."""
    parts = sorted((output / "results").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()


def image(output: Path, row: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """The pixels of a row's image."""
    with Image.open(output / row["image"]) as opened:
        return np.asarray(opened)


def workers(output: Path) -> set[str]:
    """`host:pid` of the processes that finished shards; running shards name none yet."""
    stats = [json.loads(path.read_text()) for path in (output / "stats").glob("*.json")]
    return {shard["worker"] for shard in stats if shard["state"] == "done"}
