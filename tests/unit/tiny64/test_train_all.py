from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.drawings import write_drawings
from tests.tiny_training import SIZE, VIT, VIT_TRAINING
from tiny64.train_all import __main__ as train_all
from tiny64.train_all.__main__ import TRAININGS, Training, train_one
from tiny64.vit_training import train_vit


def test_a_network_trains_on_from_an_earlier_run_for_so_many_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    earlier = train_vit(data, tmp_path / "earlier" / "vit", VIT, VIT_TRAINING)
    tiny = Training(train_vit, replace(TRAININGS["vit"].how, positions=6, window=2, move=1), 8, VIT)
    monkeypatch.setitem(train_all.TRAININGS, "vit", tiny)  # type: ignore[arg-type]

    shipped = train_one("vit", data, tmp_path / "out", 0.1, "cpu", str(earlier.parent), batch=4)

    assert shipped == tmp_path / "out" / "ship" / "vit.safetensors"
    assert {tensor.dtype for tensor in load_file(shipped).values()} == {torch.float16}
    description = json.loads(shipped.with_suffix(".json").read_text())
    # The cosine was planned for what the measurement left room for; a machine that has become
    # slower since stops before its end.
    steps = description["steps"]
    assert 1 <= steps <= description["training"]["steps"] < 100_000
    assert description["pictures"] == 4 * steps
    assert description["initial"]["name"] == str(earlier.parent)
    assert f"vit: {4 * steps:,} images in" in capsys.readouterr().out


def test_trained_networks_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ship").mkdir()
    with pytest.raises(SystemExit, match="holds trained networks; give a new folder"):
        train_all.train_all(tmp_path / "emoji.parquet", tmp_path, 0.1)


def test_a_training_that_breaks_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="training broke: prior, vit, clip; the reason is above"):
        train_all.train_all(tmp_path / "none.parquet", tmp_path / "out", 0.1)
    assert "none.parquet: cannot read training images" in capfd.readouterr().err
