"""Actors and devices: what the engine wants, and what there is."""

from __future__ import annotations

from typing import Any

import pytest

from dstc import ray_session
from dstc.errors import SettingsError
from dstc.planning import workers
from dstc.planning.settings import make_settings
from dstc.planning.workers import choose_workers, likely_device

OWN = "tests.example_engine:BRIGHTEN"


def choose(monkeypatch: pytest.MonkeyPatch, gpus: int, shards: int = 9, **values: Any) -> Any:
    class Cluster:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return {"CPU": 16.0, "GPU": float(gpus)}

    monkeypatch.setattr(workers, "ray", Cluster)
    monkeypatch.setattr(ray_session, "ray", Cluster)
    monkeypatch.setattr(workers, "usable_cores", lambda: 8)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return choose_workers(make_settings(manifest="m", output="o", **values), shards)


@pytest.mark.parametrize("engine", ["guided", OWN])
def test_an_engine_that_wants_gpus_gets_one_for_each_actor(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    found = choose(monkeypatch, gpus=2, engine=engine)
    assert (found.actors, found.device, found.cpus) == (2, "cuda", 0.0)
    with pytest.raises(SettingsError, match="--actors 3: found 2 GPUs here"):
        choose(monkeypatch, gpus=2, engine=engine, actors=3)


@pytest.mark.parametrize("engine", ["guided", OWN])
def test_without_gpus_there_are_as_many_actors_as_cores_shards_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    found = choose(monkeypatch, gpus=0, engine=engine)
    assert (found.actors, found.device) == (workers.CPU_ACTORS, "cpu")
    assert choose(monkeypatch, gpus=0, engine=engine, shards=2).actors == 2
    on_cluster = choose(monkeypatch, gpus=0, engine=engine, address="ray://head:10001")
    assert (on_cluster.actors, on_cluster.cpus) == (9, 0.5)
    # Each read or write task that runs at once is a process more, and a cluster has its own.
    assert (found.io_tasks, on_cluster.io_tasks) == (workers.CPU_ACTORS, None)


def test_tf32_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, gpus=1, precision="tf32").device == "cuda"
    assert choose(monkeypatch, gpus=0, precision="tf32", engine="fake").device == "cpu"
    with pytest.raises(SettingsError, match="--precision tf32: found a CPU, which has no TF32"):
        choose(monkeypatch, gpus=0, precision="tf32")
    with pytest.raises(SettingsError, match="expected a GPU, or --precision fp32"):
        likely_device(make_settings(manifest="m", output="o", device="cpu", precision="tf32"))


def test_the_double_takes_one_actor_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choose(monkeypatch, gpus=2, engine="fake")
    assert (found.actors, found.device) == (1, "cpu")
    assert choose(monkeypatch, gpus=2, engine="fake", actors=5).actors == 5


def test_a_dry_run_expects_gpus_of_a_cluster_only_for_engines_that_use_them() -> None:
    values = {"manifest": "m", "output": "o", "address": "ray://head:10001"}
    assert likely_device(make_settings(**values)) == "cuda"
    assert likely_device(make_settings(**values, engine=OWN)) == "cuda"
    assert likely_device(make_settings(**values, engine="fake")) == "cpu"
