"""The network policies know the pods of the RayJob, and open what it needs alone."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import yaml

from tests.unit.deploy.files import NETWORK_POLICY, RAYJOB, read_yaml

POLICIES = {
    policy["metadata"]["name"]: policy["spec"]
    for policy in yaml.safe_load_all(NETWORK_POLICY.read_text())
}
NODES = {"head", "worker"}
METADATA = ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fe80::1"]


def roles(selector: dict[str, Any]) -> set[str]:
    """The roles that a selector of pods of this namespace takes."""
    if label := selector.get("matchLabels"):
        return {label["dstc-role"]}
    (expression,) = selector["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("dstc-role", "In")
    return set(expression["values"])


def opened(rules: list[dict[str, Any]], side: str, role: str) -> list[Any]:
    """Ports that rules open for pods of a role; None stands for all."""
    return [
        [port["port"] for port in rule["ports"]] if "ports" in rule else None
        for rule in rules
        for peer in rule[side]
        if peer.keys() == {"podSelector"} and role in roles(peer["podSelector"])
    ]


def test_every_pod_of_the_job_has_its_policy() -> None:
    spec = read_yaml(RAYJOB)["spec"]
    cluster = spec["rayClusterSpec"]
    templates = [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    found = [template["metadata"]["labels"]["dstc-role"] for template in templates]
    assert found == ["submitter", "head", "worker"]
    assert roles(POLICIES["dstc-ray"]["podSelector"]) == NODES
    assert roles(POLICIES["dstc-submitter"]["podSelector"]) == {"submitter"}
    for policy in POLICIES.values():
        assert policy["policyTypes"] == ["Ingress", "Egress"], "what is not named is not allowed"


def test_nodes_reach_each_other_and_the_submitter_the_job_server_alone() -> None:
    policy = POLICIES["dstc-ray"]
    for role in NODES:
        assert opened(policy["ingress"], "from", role) == [None]
        assert opened(policy["egress"], "to", role) == [None]
    assert opened(policy["ingress"], "from", "submitter") == [[8265]]
    assert opened(POLICIES["dstc-submitter"]["egress"], "to", "head") == [[8265]]
    assert POLICIES["dstc-submitter"]["ingress"] == []


def test_from_elsewhere_only_the_operator_and_prometheus_come_in() -> None:
    others = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: [
            port["port"] for port in rule["ports"]
        ]
        for rule in POLICIES["dstc-ray"]["ingress"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    }
    assert others == {"kuberay-system": [8265], "monitoring": [8080]}


@pytest.mark.parametrize("address", METADATA)
def test_the_metadata_service_is_out_of_reach(address: str) -> None:
    here = ipaddress.ip_address(address)
    for rule in POLICIES["dstc-ray"]["egress"]:
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            inside = here in ipaddress.ip_network(block["cidr"])
            excepted = any(here in ipaddress.ip_network(net) for net in block.get("except", ()))
            assert not inside or excepted
            # Kubernetes refuses an exception that is not part of the block.
            for net in block.get("except", ()):
                whole = ipaddress.ip_network(block["cidr"])
                assert ipaddress.ip_network(net).subnet_of(whole)  # type: ignore[arg-type]


def test_the_submitter_reaches_nothing_outside() -> None:
    blocks = [
        peer["ipBlock"]["cidr"]
        for rule in POLICIES["dstc-submitter"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks == ["169.254.20.10/32"], "the node's own name server"
