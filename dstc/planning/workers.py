"""Number of actors of a run, and the devices they work on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray
import ray.data

from dstc.engines.registry import find_engine
from dstc.errors import SettingsError
from dstc.planning.plan import Plan
from dstc.planning.settings import Settings
from dstc.ray_session import choose_device, cluster_address, cluster_gpus
from dstc.store import weights_bucket
from dstc.worker.shard_task import ShardTask
from dstc_engine.cores import usable_cores

# Actors on one machine without GPUs, unless --actors says otherwise.
CPU_ACTORS = 4


# A CPU actor keeps a core busy, and asks a cluster for half of one: enough to be spread over nodes
# and kept off a head that offers none, and on full nodes there is room for reads and writes.
_ACTOR_CPUS = 0.5
# On one machine, read tasks at once, and write tasks: Ray would start a process of 200 MB and 3 s
# of imports for each that its CPUs allow (4 a core), where two keep up with 20 shards a second.
_LOCAL_IO_TASKS = 2


@dataclass(frozen=True)
class Workers:
    """The actors of a run.

    Attributes:
        fewest, actors: how many; where they differ, as many of them as the cluster has room for.
        device: "cuda" or "cpu". cpu_threads: of torch in each, 0 for its own choice.
        cpus: what each asks Ray for.
        io_tasks: most read tasks at once, and write tasks; None for as many as the cluster holds.
    """

    fewest: int
    actors: int
    device: str
    cpu_threads: int
    cpus: float
    io_tasks: int | None

    def io_tasks_for(self, inputs: int) -> int | None:
        """Tasks at once for so many inputs; Ray warns of more than there are."""
        return None if self.io_tasks is None else min(self.io_tasks, inputs)

    def task(self, plan: Plan) -> ShardTask:
        """Arguments of each actor."""
        return ShardTask(
            settings=plan.settings,
            run=plan.job.run,
            run_id=plan.job.run_id,
            image_fingerprint=plan.job.image_fingerprint,
            device=self.device,
            cpu_threads=self.cpu_threads,
            # Nodes need not know it; a path of this machine would mean nothing to them.
            weights=weights_bucket.bucket(),
        )


def choose_workers(settings: Settings, shards: int) -> Workers:
    """Chooses the number of actors and their device for so many pending shards.

    Raises:
        SettingsError: more actors than this machine has GPUs, or a precision of GPUs without one.
    """
    engine = find_engine(settings.engine)
    gpus = cluster_gpus()
    device = choose_device(settings.device, gpus) if engine.uses_gpu else "cpu"
    _check_precision(settings, device)
    is_cluster = cluster_address(settings.address) is not None
    if device == "cuda":
        usual = gpus
    elif is_cluster:
        usual = min(int(ray.cluster_resources().get("CPU", 0)), shards)  # type: ignore[no-untyped-call]
    else:
        # Each holds its networks in memory, hence the limit.
        usual = min(usable_cores(), shards, CPU_ACTORS)
    usual = min(usual, engine.most_actors or usual)
    fewest, actors = settings.actor_range or (max(usual, 1), max(usual, 1))
    if device == "cuda" and not is_cluster and fewest > gpus:
        raise SettingsError(
            f"--actors {settings.actors}: found {gpus} GPUs here; expected at most as many"
        )
    # One thread each: two share a product of odd height unevenly, and a row's last bits then depend
    # on its slot (seen at S = 3). Cores are kept busy by actors instead.
    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
    # On a GPU, that is what counts. On this machine alone, any number asked for must find room.
    cpus = _ACTOR_CPUS if is_cluster and device == "cpu" else 0.0
    return Workers(
        fewest=fewest,
        actors=actors,
        device=device,
        cpu_threads=threads,
        cpus=cpus,
        io_tasks=None if is_cluster else max(_LOCAL_IO_TASKS, actors),
    )


def likely_device(settings: Settings) -> str:
    """The device that a dry run assumes: it starts no Ray that could tell.

    Raises:
        SettingsError: it does not have the precision asked for.
    """
    device = _likely_device(settings)
    _check_precision(settings, device)
    return device


def _check_precision(settings: Settings, device: str) -> None:
    # Engines without networks for a GPU have no use of a precision.
    uses_gpu = find_engine(settings.engine).uses_gpu
    if settings.precision == "tf32" and uses_gpu and device == "cpu":
        raise SettingsError(
            "--precision tf32: found a CPU, which has no TF32; expected a GPU, or --precision fp32"
        )


def _likely_device(settings: Settings) -> str:
    if not find_engine(settings.engine).uses_gpu:
        return "cpu"
    if settings.device != "auto":
        return settings.device
    if cluster_address(settings.address):
        return "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
