"""Weights in a bucket of a real S3 server: put there once, brought to a node once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dstc.store import weights_bucket
from dstc_engine.weights import registry
from dstc_engine.weights.registry import file_sha256
from tests.fault_proxy import FaultProxy
from tests.s3_server import S3
from tests.some_weights import preset_of, register, sum_of

pytest_plugins = ["tests.s3_server"]

UPSTREAM = "0" * 64
# Several ranges of 1 MB, and enough for an upload in parts.
SIZE_MB = 9

_CHILD = """
import dataclasses, json, sys
from dstc_engine.presets import Preset
from dstc_engine.weights.registry import REGISTRY, Weights
from dstc.store.weights_bucket import bring
fields = json.loads(sys.argv[1])
REGISTRY[fields["name"]] = Weights(**fields)
sys.stdin.readline()  # so that all begin at once
bring(Preset(name="tiny64", prior=fields["name"], dino="emoji64-vit", clips=("emoji64-clip",)))
"""


@pytest.fixture
def weights(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[registry.Weights]:
    """Weights in the bucket, and none on this node."""
    made = register(monkeypatch, sha256=UPSTREAM)
    monkeypatch.setenv("DSTC_WEIGHTS", s3.uri("weights"))
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(tmp_path / "made"))
    (tmp_path / "made").mkdir()
    path = tmp_path / "made" / "some.safetensors"
    save_file({"layer": torch.arange(SIZE_MB << 18, dtype=torch.float32)}, path)
    description = {
        "name": "some",
        "source": made.source,
        "file": made.file,
        "upstream_sha256": UPSTREAM,
        "upstream_published": True,
        "sha256": file_sha256(path),
        "size": path.stat().st_size,
        "fetched": "2026-01-01T00:00:00Z",
    }
    path.with_suffix(".json").write_text(json.dumps(description))
    weights_bucket.put("some")
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(tmp_path / "cache"))
    yield made


def start(weights: registry.Weights, environment: dict[str, str]) -> subprocess.Popen[str]:
    fields: dict[str, Any] = {
        name: getattr(weights, name) for name in ("name", "file", "source", "sha256", "licence")
    }
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(fields)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_was_put_there_is_a_file_and_its_description(
    s3: S3, weights: registry.Weights
) -> None:
    assert s3.list("weights") == ["some.json", "some.safetensors"]
    description = json.loads(s3.get("weights/some.json"))
    assert sum_of(s3.get("weights/some.safetensors")) == description["sha256"]
    assert weights_bucket.sums(preset_of("some"))["some"] == UPSTREAM


def test_processes_of_one_node_copy_a_file_once_in_ranges(
    s3: S3, weights: registry.Weights, tmp_path: Path
) -> None:
    with FaultProxy(s3.server.port) as proxy:
        processes = [start(weights, {"AWS_ENDPOINT_URL": proxy.endpoint}) for _ in range(3)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
        for process in processes:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
        gets = [asked for asked in proxy.requests if "some.safetensors" in asked.path]
    tensors = load_file(tmp_path / "cache" / "some.safetensors")["layer"]
    assert torch.equal(tensors, torch.arange(SIZE_MB << 18, dtype=torch.float32))
    # 9 MB and a header of some bytes; never much of it in one piece.
    assert len([asked for asked in gets if asked.method == "GET"]) == SIZE_MB + 1
    assert max(asked.received for asked in gets) <= 1 << 20


def test_broken_connections_cost_a_range_each(
    s3: S3, weights: registry.Weights, tmp_path: Path
) -> None:
    with FaultProxy(s3.server.port) as proxy:
        proxy.drop(0.3)
        process = start(weights, {"AWS_ENDPOINT_URL": proxy.endpoint})
        _, err = process.communicate("\n", timeout=120)
        assert process.returncode == 0, err
    assert registry.verify("some") == tmp_path / "cache" / "some.safetensors"
