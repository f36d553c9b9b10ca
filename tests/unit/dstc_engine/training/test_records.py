from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from dstc_engine.training.records import log_metrics, save_weights


def test_weights_come_with_how_they_were_made(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "run", "vit", {"w": torch.ones(2).half()}, {"steps": 3})
    assert load_file(path)["w"].dtype == torch.float32
    assert json.loads((tmp_path / "run" / "vit.json").read_text()) == {"steps": 3}
    assert sorted(p.name for p in path.parent.iterdir()) == ["vit.json", "vit.safetensors"]


def test_metrics_not_measured_stay_empty(tmp_path: Path) -> None:
    log_metrics(tmp_path / "log.csv", ["loss", "val"], 50, {"loss": 1.5})
    log_metrics(tmp_path / "log.csv", ["loss", "val"], 100, {"loss": 1.0, "val": 0.25})
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["step,loss,val", "50,1.50000,", "100,1.00000,0.25000"]


def test_an_older_log_keeps_its_columns(tmp_path: Path) -> None:
    log_metrics(tmp_path / "log.csv", ["loss"], 50, {"loss": 1.5})
    log_metrics(tmp_path / "log.csv", ["val", "loss"], 100, {"loss": 1.0, "val": 0.25})
    assert (tmp_path / "log.csv").read_text().splitlines()[-1] == "100,1.00000"
