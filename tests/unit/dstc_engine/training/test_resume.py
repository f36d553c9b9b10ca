"""A run that was stopped and continued ends in the weights of an unbroken one, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dstc_engine.errors import UserError
from dstc_engine.training.loop import World
from dstc_engine.training.prior import train_prior
from tests.drawings import write_drawings
from tests.tiny_training import (
    CLIP,
    CLIP_TRAINING,
    PRIOR,
    PRIOR_SIZE,
    SIZE,
    UNET,
    VIT,
    VIT_TRAINING,
)
from tiny64.clip_training import train_clip
from tiny64.vit_training import train_vit

Train = Callable[[Path, Path, float, World], Path]


def _prior(data: Path, out: Path, minutes: float, world: World) -> Path:
    return train_prior(data, out, UNET, PRIOR, minutes, world)


def _vit(data: Path, out: Path, minutes: float, world: World) -> Path:
    return train_vit(data, out, VIT, VIT_TRAINING, minutes, world)


def _clip(data: Path, out: Path, minutes: float, world: World) -> Path:
    return train_clip(data, out, CLIP, CLIP_TRAINING, minutes, world)


TRAIN: dict[str, Train] = {"prior": _prior, "vit": _vit, "clip": _clip}


def _minutes() -> Callable[[], float]:
    ticks = iter(range(0, 10**6, 60))
    return lambda: float(next(ticks))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawings(tmp_path_factory.mktemp("data") / "emoji.parquet", size=SIZE)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawings(tmp_path_factory.mktemp("data") / "emoji.parquet", size=PRIOR_SIZE)


@pytest.mark.parametrize("name", TRAIN)
def test_a_continued_run_equals_an_unbroken_one(
    name: str, data: Path, small_data: Path, tmp_path: Path
) -> None:
    train = TRAIN[name]
    data = small_data if name == "prior" else data
    unbroken = train(data, tmp_path / "unbroken", 0, World())
    train(data, tmp_path / "broken", 1.5, World(clock=_minutes()))
    halfway = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert halfway["step"] == 2
    continued = train(data, tmp_path / "broken", 0, World())

    want, got = load_file(unbroken), load_file(continued)
    assert want.keys() == got.keys()
    assert all(torch.equal(want[key], got[key]) for key in want)
    rows = (tmp_path / "broken" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "4"]
    assert len(list((tmp_path / "broken" / "samples").glob("*.png"))) == 2
    if name != "prior":
        record = json.loads((tmp_path / "broken" / f"{name}.json").read_text())
        assert record["steps"] == 4
        assert {"architecture", "mean", "std", "training", "metrics"} <= record.keys()
        assert all(0 <= v <= 1 for k, v in record["metrics"].items() if k.startswith("val_style"))


def test_a_finished_run_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    first = _vit(data, tmp_path, 0, World()).stat().st_mtime_ns
    assert _vit(data, tmp_path, 0, World()).stat().st_mtime_ns == first


@pytest.mark.parametrize("name", TRAIN)
def test_missing_pictures_are_the_users_to_mend(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.parquet: cannot read training pictures"):
        TRAIN[name](tmp_path / "nowhere.parquet", tmp_path / "run", 0, World())
