"""The files that make a cluster, and the versions that they all must name."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
CLUSTER = REPOSITORY / "cluster.yaml"
RAYJOB = REPOSITORY / "deploy/kuberay/rayjob.yaml"
NETWORK_POLICY = REPOSITORY / "deploy/kuberay/network-policy.yaml"
DOCKERFILE = REPOSITORY / "deploy/Dockerfile"

# What a credential may look like when it is written out: an AWS key, a private key, a token in hex.
SECRET = re.compile(r"AKIA[0-9A-Z]{12}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b")
SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD", re.IGNORECASE)


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def image_tag() -> str:
    """`<dstc>-ray<Ray>-py<Python>`, of what is installed here."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    return f"{version}-ray{ray.__version__}-py{sys.version_info.major}{sys.version_info.minor}"


def locked(package: str) -> str:
    """The version of a package in requirements.lock."""
    (found,) = re.findall(
        rf"^{package}==([^\s\\]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE
    )
    return str(found)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar of nested lists and dicts, with the keys that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path, value
