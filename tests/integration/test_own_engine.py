"""An engine that this package does not know, plugged in by its record (tests/example_engine.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dstc.errors import RunFolderError
from dstc.planning.plan import make_plan
from dstc.planning.settings import make_settings

OWN = "tests.example_engine:BRIGHTEN"
# A GPU that only Ray believes in: the actor is given one, and the engine asks nothing of it.
WITH_A_GPU = (
    "import sys; from dstc.cli import main; from dstc.ray_session import start_ray; "
    "start_ray(None, num_cpus=2, num_gpus=1); main(sys.argv[1:])"
)


def translate(manifest: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITH_A_GPU, "translate", str(manifest), str(output)]
    return subprocess.run(
        [*command, "--engine", OWN, *options], capture_output=True, text=True, check=False
    )


def on_gpu(output: Path) -> set[float]:
    rows = pq.read_table(output / "results").to_pylist()
    assert len(rows) == 3 and {row["status"] for row in rows} == {"done"}
    return {row["losses"][-1]["structure"] for row in rows}


def test_it_runs_on_the_device_it_asks_for_and_its_weights_tell_runs_apart(
    write_manifest: Callable[..., Path],
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = tmp_path / "brightness.txt"
    weights.write_text("1")
    monkeypatch.setenv("BRIGHTNESS", str(weights))
    manifest, output = write_manifest(good_rows(3)), tmp_path / "run"

    done = translate(manifest, output)
    assert done.returncode == 0, done.stderr
    assert on_gpu(output) == {1.0}
    job = json.loads((output / "job.json").read_text())
    assert job["identity"]["engine"]["kind"] == OWN
    assert list(job["identity"]["weights"]) == ["brightness"]

    settings = make_settings(manifest=str(manifest), output=str(tmp_path / "new"), engine=OWN)
    first = make_plan(settings).job
    weights.write_text("2")
    second = make_plan(settings).job
    assert first.fingerprint != second.fingerprint
    assert first.image_fingerprint != second.image_fingerprint
    with pytest.raises(RunFolderError, match="belongs to another run: weights.brightness: there"):
        make_plan(settings.model_copy(update={"output": str(output)}))

    on_cpu = translate(manifest, tmp_path / "cpu", "--device", "cpu")
    assert on_cpu.returncode == 0, on_cpu.stderr
    assert on_gpu(tmp_path / "cpu") == {0.0}
