"""The prepared check of a GPU, on a CPU with small networks: parts run, none beyond its time."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_parts import RUN, Notes


@pytest.mark.slow
@pytest.mark.timeout(1200)  # of 15 minutes
def test_all_parts_run_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    options = f"--device cpu --shrink --minutes 15 --json {file}"
    assert gpu_check.main(options.split()) == 0, capsys.readouterr()
    found = json.loads(file.read_text())["parts"]
    assert list(found) == list(gpu_check.PARTS) == list(RUN)
    assert not any("amiss" in part or "cut_off" in part for part in found.values())
    assert {step["waits"][1] for step in found["watch"]["steps"]} == {1}
    assert all(row["equal"] == row["rows"] for row in found["bits"]["compared"])
    assert {way["way"] for way in found["speed"]["ways"]} == {"eager"}
    said = capsys.readouterr().out
    assert "parity: good" in said and "slots: only a GPU's memory is measured" in said


def test_a_part_is_cut_off_and_keeps_what_it_had(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    began = time.monotonic()
    options = f"--device cpu --shrink --parts speed --minutes 0.1 --json {file}"
    assert gpu_check.main(options.split()) == 0
    assert time.monotonic() - began < 60
    part = json.loads(file.read_text())["parts"]["speed"]
    assert part["cut_off"] == "after 3 s" or part["skipped"]


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    gone = ("open_clip", "ftfy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in gone else real(n))
    assert gpu_check.main([]) == 2
    said = capsys.readouterr().err
    assert "package open_clip_torch: not installed" in said and "ftfy" in said
    assert "pip download" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    assert "GPU" in capsys.readouterr().err


def test_what_is_found_is_written_at_once_and_what_breaks_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    notes = Notes(file, time.monotonic() + 5)

    def written() -> dict[str, Any]:
        return json.loads(file.read_text())

    notes.add("lines", "one")
    assert written() == {"lines": ["one"]}
    with notes.attempt("a step"):
        raise ValueError("of no use")
    with notes.attempt("a large step"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert not notes.has(60, "a long one") and notes.has(1, "a short one")
    assert written()["amiss"] == ["a step: ValueError: of no use"]
    assert [line.partition(":")[0] for line in written()["skipped"]] == [
        "a large step",
        "a long one",
    ]
