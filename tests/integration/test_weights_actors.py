"""Actors take their weights from the driver's bucket, once a node, and a job without them ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save

from dstc.planning.settings import Settings, make_settings
from dstc.translate import OK, run
from dstc_engine.errors import WeightsError
from dstc_engine.presets import get_preset
from dstc_engine.weights.registry import Weights, find, weights_of
from tests.fault_proxy import FaultProxy
from tests.ray_session import RAY_WARNINGS, image, result_rows
from tests.s3_server import S3
from tests.some_weights import sum_of

pytest_plugins = ["tests.s3_server"]

PRESET = "imagenet256-text"
# Tensors that fit none of the networks: what counts here is how they get there.
DATA = save({"nothing": torch.zeros(4)})


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    """Counts what is asked of the bucket."""
    with FaultProxy(s3.server.port) as between:
        yield between


@pytest.fixture(scope="module")
def node(s3: S3, proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of this node's copies. Ray's processes take this environment with them."""
    folder = tmp_path_factory.mktemp("node") / "copies"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSTC_WEIGHTS_CACHE", str(folder))
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        patch.delenv("DSTC_WEIGHTS", raising=False)
        yield folder


pytestmark = [RAY_WARNINGS, pytest.mark.usefixtures("s3", "node", "ray_session")]


@pytest.fixture
def weights(s3: S3, monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """All weights of a preset in the bucket; only the driver is told of it."""
    published = weights_of(get_preset(PRESET))
    for each in published:
        description = {
            "name": each.name,
            "source": each.source,
            "file": each.file,
            "upstream_sha256": each.sha256 or "0" * 64,
            "upstream_published": each.sha256 is not None,
            "sha256": sum_of(DATA),
            "size": len(DATA),
            "fetched": "2026-01-01T00:00:00Z",
        }
        s3.put(f"weights/{each.name}.safetensors", DATA)
        s3.put(f"weights/{each.name}.json", json.dumps(description).encode())
    monkeypatch.setenv("DSTC_WEIGHTS", s3.uri("weights"))
    return published


@pytest.fixture
def settings(
    write_manifest: Callable[..., Path],
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
) -> Settings:
    return make_settings(
        manifest=str(write_manifest(good_rows(8))),
        output=str(tmp_path / "run"),
        preset=PRESET,
        rows_per_shard=2,
        actors=2,
        device="cpu",
    )


def test_a_bucket_that_lacks_weights_ends_the_job_before_it_starts(
    s3: S3, weights: list[Weights], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", s3.uri("empty"))
    with pytest.raises(WeightsError, match=f"no weights {weights[0].name}.*--preset {PRESET}`"):
        run(settings)
    assert not Path(settings.output).exists()


def test_actors_copy_each_file_once_and_their_error_ends_the_job(
    weights: list[Weights], settings: Settings, proxy: FaultProxy, node: Path
) -> None:
    # Every file comes; then the first that is loaded does not fit its network.
    with pytest.raises(WeightsError, match=f"{node}/.*safetensors"):
        run(settings)
    copies = sorted(path.name for path in node.glob("*.safetensors"))
    assert copies == sorted(f"{each.name}.safetensors" for each in weights)
    gets = [
        asked.path.partition("?")[0].rpartition("/")[2]
        for asked in proxy.requests
        if asked.method == "GET" and ".safetensors" in asked.path
    ]
    assert sorted(gets) == copies


def test_an_actor_whose_file_was_spoilt_on_the_way_says_so(
    s3: S3, weights: list[Weights], settings: Settings, node: Path
) -> None:
    for path in node.glob("*"):
        path.unlink()
    name = weights[0].name
    s3.put(f"weights/{name}.safetensors", DATA[:-1] + b"?")
    with pytest.raises(WeightsError, match=f"weights/{name}.safetensors: sha256 .*; expected"):
        run(settings)


SHORT = {"respacing": "20", "skip": "12", "resample": "1"}


def test_a_prior_that_lies_in_storage_makes_the_same_images(
    s3: S3,
    proxy: FaultProxy,
    write_manifest: Callable[..., Path],
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
) -> None:
    shipped = find("emoji64-prior").path
    url = s3.put("priors/mine.json", shipped.with_suffix(".json").read_bytes())
    s3.put("priors/mine.safetensors", shipped.read_bytes())

    def translate(output: Path, actors: int, **fields: str) -> list[npt.NDArray[np.uint8]]:
        settings = make_settings(
            manifest=str(write_manifest(good_rows(4))),
            output=str(output),
            set={**SHORT, **fields},
            slots=2,
            rows_per_shard=1,
            actors=actors,
            device="cpu",
        )
        assert run(settings) == OK
        return [image(output, row) for row in result_rows(output)]

    ours = translate(tmp_path / "described", 2, prior=url)
    theirs = translate(tmp_path / "shipped", 1)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    gets = [
        asked
        for asked in proxy.requests
        if asked.method == "GET" and "mine.safetensors" in asked.path
    ]
    pieces = -(-shipped.stat().st_size // (1 << 20))
    assert len(gets) == pieces, "the two actors have one copy, read in pieces"
