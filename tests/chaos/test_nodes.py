"""A node that is gone: its raylet is killed, and with it all it ran."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from dstc.translate import OK, run
from tests.chaos.runs import (
    ROWS,
    Columns,
    assert_whole,
    parts,
    settings_of,
    wait_for,
    write_rows,
)
from tests.outcomes import outcome
from tests.ray_session import RAY_WARNINGS, ray_gone, workers

pytestmark = RAY_WARNINGS


@pytest.fixture
def cluster(no_ray: None) -> Iterator[tuple[str, list[Any]]]:
    """Address and nodes of a cluster: three raylets on this one machine, of which the head's runs
    nothing, as it should be where the driver lives.
    """
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        two = [cluster.add_node(num_cpus=2) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster.address, two
    finally:
        with ray_gone():
            ray.shutdown()
            cluster.shutdown()


def raylet(node: Any) -> int:
    (found,) = node.all_processes["raylet"]
    return int(found.process.pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_that_is_gone_costs_nothing(
    cluster: tuple[str, list[Any]], tmp_path: Path, good_rows: Columns
) -> None:
    address, nodes = cluster
    columns = good_rows(ROWS)
    manifest = write_rows(tmp_path, columns)
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    of_cluster = {"address": address, "actors": 2}
    assert run(settings_of(manifest, calm, fake_step_seconds=0.0, **of_cluster)) == OK
    gone: list[int] = []

    def kill_a_node() -> None:
        wait_for(lambda: parts(torn) and workers(torn))
        for worker in workers(torn):
            with contextlib.suppress(FileNotFoundError):
                gone.append(parent(int(worker.rpartition(":")[2])))
                os.kill(gone[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    assert run(settings_of(manifest, torn, fake_step_seconds=0.2, **of_cluster)) == OK
    killer.join()
    assert gone and gone[0] in {raylet(node) for node in nodes}
    assert_whole(torn, columns["id"])
    assert outcome(torn)[1] == outcome(calm)[1]
