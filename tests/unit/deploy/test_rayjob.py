"""The RayJob for KubeRay says what its cluster needs, and holds no secret."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from dstc.cli import app
from tests.unit.deploy.files import (
    RAYJOB,
    SECRET,
    SECRET_NAME,
    image_tag,
    leaves,
    read_yaml,
)

UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return dict(read_yaml(RAYJOB))


@pytest.fixture(scope="module")
def spec(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job["spec"])


@pytest.fixture(scope="module")
def cluster(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["rayClusterSpec"])


@pytest.fixture(scope="module")
def gpus(cluster: dict[str, Any]) -> dict[str, Any]:
    (group,) = cluster["workerGroupSpecs"]
    return dict(group)


def pods(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = spec["rayClusterSpec"]
    templates = {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
    }
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {name: template["spec"] for name, template in templates.items()}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return dict(only)


def test_it_is_a_ray_job_of_version_1(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")


def test_every_pod_runs_the_same_versions(spec: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert cluster["rayVersion"] == ray.__version__
    images = {container(pod)["image"] for pod in pods(spec).values()}
    assert len(images) == 1 and images.pop().endswith(f":{image_tag()}")


def test_the_entrypoint_is_a_command_that_exists(spec: dict[str, Any]) -> None:
    program, command, *arguments = shlex.split(spec["entrypoint"])
    assert (program, command) == ("dstc", "translate")
    # An unknown option is named before anything is done; each of ours must not be.
    result = CliRunner().invoke(app, [command, *arguments, "--dry-run", "--nonsense"])
    assert result.exit_code == 2 and "--nonsense" in result.output
    for option in (word for word in arguments if word.startswith("--")):
        result = CliRunner().invoke(app, [command, option])
        assert "No such option" not in result.output, option


def test_the_actors_fit_the_nodes_that_may_come(spec: dict[str, Any], gpus: dict[str, Any]) -> None:
    words = shlex.split(spec["entrypoint"])
    actors = int(words[words.index("--actors") + 1])
    limits = container(gpus["template"]["spec"])["resources"]["limits"]
    assert actors <= gpus["maxReplicas"] * int(limits["nvidia.com/gpu"])
    # While no node is there, only this makes the driver wait for GPUs.
    assert words[words.index("--device") + 1] == "cuda"


def test_it_grows_from_nothing_and_ends_by_itself(
    spec: dict[str, Any], cluster: dict[str, Any], gpus: dict[str, Any]
) -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    assert (gpus["replicas"], gpus["minReplicas"]) == (0, 0) and gpus["maxReplicas"] > 0
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0


def test_the_autoscaler_sees_the_gpus(gpus: dict[str, Any]) -> None:
    resources = container(gpus["template"]["spec"])["resources"]
    assert gpus["rayStartParams"]["num-gpus"] == resources["limits"]["nvidia.com/gpu"]
    # Ray counts on limits; with smaller requests pods would share what each believes its own.
    assert resources["requests"] == resources["limits"]


def test_driver_and_submitter_are_on_demand_and_workers_on_spot(spec: dict[str, Any]) -> None:
    kinds = {
        name: pod["nodeSelector"]["eks.amazonaws.com/capacityType"]
        for name, pod in pods(spec).items()
    }
    assert kinds == {"submitter": "ON_DEMAND", "head": "ON_DEMAND", "gpu-spot": "SPOT"}
    tolerated = {each["key"] for each in pods(spec)["gpu-spot"]["tolerations"]}
    assert tolerated == {"nvidia.com/gpu", "spot"}
    assert "tolerations" not in pods(spec)["head"]


def test_the_head_takes_no_tasks_and_is_not_moved(cluster: dict[str, Any]) -> None:
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(head["template"]["spec"])["resources"]["limits"]
    annotations = head["template"]["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_a_worker_ends_within_a_spot_notice(gpus: dict[str, Any]) -> None:
    assert gpus["template"]["spec"]["terminationGracePeriodSeconds"] < 120


@pytest.mark.parametrize("name", ["submitter", "head", "gpu-spot"])
def test_pods_meet_the_standard_restricted(spec: dict[str, Any], name: str) -> None:
    pod = pods(spec)[name]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 100,
        "fsGroup": 100,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert container(pod)["securityContext"] == UNPRIVILEGED
    # The head's autoscaler alone talks to Kubernetes.
    assert pod.get("automountServiceAccountToken", True) is (name == "head")


@pytest.mark.parametrize("name", ["submitter", "head", "gpu-spot"])
def test_only_volumes_are_written_to(spec: dict[str, Any], name: str) -> None:
    pod = pods(spec)[name]
    volumes = {volume.pop("name"): volume for volume in copy.deepcopy(pod["volumes"])}
    assert volumes == {"tmp": {"emptyDir": {}}, "cache": {"emptyDir": {}}}
    mounts = {each["mountPath"]: each["name"] for each in container(pod)["volumeMounts"]}
    assert mounts == {"/tmp": "tmp", "/home/ray/.cache": "cache"}
    # What Ray, torch and DSTC write by default lies below one of them.
    assert "TORCHINDUCTOR_CACHE_DIR" not in str(container(pod)), "its default is below /tmp"


def test_what_kuberay_puts_beside_the_head_is_held_to_the_same(cluster: dict[str, Any]) -> None:
    options = cluster["autoscalerOptions"]
    assert options["securityContext"] == UNPRIVILEGED
    assert {each["mountPath"] for each in options["volumeMounts"]} == {"/tmp", "/home/ray/.cache"}


def test_credentials_come_from_outside(spec: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    for name in ("head", "gpu-spot"):
        pod = pods(spec)[name]
        assert pod["serviceAccountName"]
        (source,) = container(pod)["envFrom"]
        assert source["secretRef"]["optional"] is True
    assert not SECRET.search(RAYJOB.read_text())
    switch = "automountServiceAccountToken"  # the name of a token, and none
    named = [
        path for path, _ in leaves(spec) if SECRET_NAME.search(path[-1]) and path[-1] != switch
    ]
    assert named == [
        (*path, "key")
        for path in [
            ("rayClusterSpec", "workerGroupSpecs", "template", "spec", "tolerations"),
        ]
        * 2
    ]
    assert "runtimeEnvYAML" not in spec, "Ray shows its variables to everyone who may list jobs"


def test_driver_and_workers_find_the_same_weights(spec: dict[str, Any]) -> None:
    for name in ("head", "gpu-spot"):
        variables = {each["name"]: each["value"] for each in container(pods(spec)[name])["env"]}
        assert variables.pop("DSTC_WEIGHTS") == "s3://BUCKET/weights"
        assert variables == {"TRITON_CACHE_DIR": "/tmp/triton", "CUDA_CACHE_PATH": "/tmp/cuda"}
