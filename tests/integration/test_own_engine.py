"""An engine that this package does not know, plugged in by its record (tests/example_engine.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dstc.errors import RunFolderError
from dstc.planning.plan import make_plan
from dstc.planning.settings import make_settings
from dstc.ray_session import start_ray
from dstc.translate import OK, run
from tests.ray_session import RAY_WARNINGS, end_ray

pytestmark = RAY_WARNINGS

OWN = "tests.example_engine:BRIGHTEN"


@pytest.fixture
def ray_with_a_gpu(no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A GPU that only Ray believes in: an actor is given one, and the engine asks nothing of it.

    Returns:
        The engine's weights, which Ray's processes find through the environment.
    """
    weights = tmp_path / "brightness.txt"
    weights.write_text("1")
    monkeypatch.setenv("BRIGHTNESS", str(weights))
    start_ray(None, num_cpus=2, num_gpus=1)
    yield weights
    end_ray()


def on_gpu(output: Path) -> set[float]:
    rows = pq.read_table(output / "results").to_pylist()
    assert len(rows) == 3 and {row["status"] for row in rows} == {"done"}
    return {row["losses"][-1]["structure"] for row in rows}


def test_it_runs_on_the_device_it_asks_for_and_its_weights_tell_runs_apart(
    write_manifest: Callable[..., Path],
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
    ray_with_a_gpu: Path,
) -> None:
    weights, output = ray_with_a_gpu, tmp_path / "run"
    manifest = str(write_manifest(good_rows(3)))

    assert run(make_settings(manifest=manifest, output=str(output), engine=OWN)) == OK
    assert on_gpu(output) == {1.0}
    job = json.loads((output / "job.json").read_text())
    assert job["identity"]["engine"]["kind"] == OWN
    assert list(job["identity"]["weights"]) == ["brightness"]

    settings = make_settings(manifest=manifest, output=str(tmp_path / "new"), engine=OWN)
    first = make_plan(settings).job
    weights.write_text("2")
    second = make_plan(settings).job
    assert first.fingerprint != second.fingerprint
    assert first.image_fingerprint != second.image_fingerprint
    with pytest.raises(RunFolderError, match="belongs to another run: weights.brightness: there"):
        make_plan(settings.model_copy(update={"output": str(output)}))

    weights.write_text("1")
    on_cpu = {"output": str(tmp_path / "cpu"), "device": "cpu"}
    assert run(settings.model_copy(update=on_cpu)) == OK
    assert on_gpu(tmp_path / "cpu") == {0.0}
