"""Each training stopped and continued ends in the weights of an unbroken one, bit for bit.

`test_loop.py` has what `fit` does for all of them; here, the draws of each are its step's alone.
"""

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
    assert len(list((tmp_path / "broken" / "samples").glob("*.png"))) == 2
    record = json.loads(continued.with_suffix(".json").read_text())
    columns = rows[0].split(",")[1:]
    assert sorted(record["metrics"]) == sorted(columns)
    assert all(0 <= v <= 1 for k, v in record["metrics"].items() if k.startswith("val_style"))
    assert name == "prior" or {"mean", "std"} <= record.keys()


def test_missing_images_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.parquet: cannot read training images"):
        _vit(tmp_path / "nowhere.parquet", tmp_path / "run", 0, World())
