"""cluster.yaml is what Ray's launcher takes, and keeps the driver safe and secrets out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import ray

from tests.unit.deploy.files import (
    CLUSTER,
    REPOSITORY,
    SECRET,
    SECRET_NAME,
    image_tag,
    leaves,
    locked,
    read_yaml,
)


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(read_yaml(CLUSTER))


def checked_by_ray(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a configuration before it talks to a cloud.

    Ray has no public check. This one is private: should a release move it, this is the one place.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def node_types(config: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head's node type, and those of workers."""
    types = dict(config["available_node_types"])
    return types.pop(config["head_node_type"]), list(types.values())


def test_rays_launcher_takes_it(config: dict[str, Any]) -> None:
    prepared = checked_by_ray(config)
    assert prepared["docker"]["image"] == config["docker"]["image"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["docker"].update(rm=True),
        lambda c: c["available_node_types"]["gpu-spot"]["resources"].update(GPU=0.5),
        lambda c: c["available_node_types"]["gpu-spot"].update(min_workers=99),
        lambda c: c.update(head_node_type="nobody"),
    ],
)
def test_rays_check_would_notice(
    config: dict[str, Any], spoil: Callable[[dict[str, Any]], None]
) -> None:
    spoil(config)
    with pytest.raises(Exception, match="rm|0.5|max_workers|head_node_type"):
        checked_by_ray(config)


def test_the_head_is_on_demand_and_takes_no_tasks(config: dict[str, Any]) -> None:
    head, _ = node_types(config)
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["max_workers"] == 0


def test_workers_are_spot_and_bring_a_gpu_and_cores_for_reading(config: dict[str, Any]) -> None:
    _, workers = node_types(config)
    assert workers
    for worker in workers:
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert worker["resources"]["GPU"] == 1
        assert worker["resources"]["CPU"] >= 2, "one core reads while another writes"


def test_it_grows_from_nothing_and_shrinks_again(config: dict[str, Any]) -> None:
    _, workers = node_types(config)
    assert sum(worker["min_workers"] for worker in workers) == 0
    assert config["max_workers"] >= max(worker["max_workers"] for worker in workers) > 0
    assert config["idle_timeout_minutes"] > 0
    # Above the type's limit Ray would wait for nodes that may not come.
    assert config["max_workers"] <= sum(worker["max_workers"] for worker in workers)


def test_versions_are_those_of_the_lock_and_of_this_client(config: dict[str, Any]) -> None:
    assert locked("ray") == ray.__version__
    assert config["docker"]["image"].endswith(f":{image_tag()}")


def test_no_command_installs_anything_in_another_version(config: dict[str, Any]) -> None:
    commands = checked_by_ray(config)
    for phase in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert not [line for line in commands[phase] if "pip install" in line], phase


def test_roles_take_the_place_of_keys(config: dict[str, Any]) -> None:
    head, workers = node_types(config)
    profiles = [node["node_config"]["IamInstanceProfile"]["Name"] for node in (head, *workers)]
    assert all(profiles) and profiles[0] not in profiles[1:], "workers may start no instances"
    assert not SECRET.search(CLUSTER.read_text())
    assert [
        path
        for path, _ in leaves(config)
        if SECRET_NAME.search(path[-1]) and "file_mounts" not in path
    ] == [("available_node_types", "head", "node_config", "MetadataOptions", "HttpTokens")] + [
        ("available_node_types", "gpu-spot", "node_config", "MetadataOptions", "HttpTokens")
    ]


def test_only_who_has_the_token_may_submit(config: dict[str, Any]) -> None:
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    # The file, not its content, and nothing else: neither weights nor data.
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    (start,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start


def test_all_nodes_find_the_same_weights_and_a_place_for_their_copies(
    config: dict[str, Any],
) -> None:
    options = config["docker"]["run_options"]  # of the head and of workers
    assert "-e DSTC_WEIGHTS=s3://BUCKET/weights" in options
    assert "-e DSTC_WEIGHTS_CACHE=/home/ray/weights" in options


def test_the_files_that_its_comments_name_exist() -> None:
    for name in ("deploy/Dockerfile", "docs/deploy.md", "jobs/translate.py", "requirements.lock"):
        assert name in CLUSTER.read_text() and (REPOSITORY / name).is_file(), name
