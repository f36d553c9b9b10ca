"""Runs that start from weights there are: which are taken, which refused, what is recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dstc_engine.diffusion.unet import UNet
from dstc_engine.errors import UserError
from dstc_engine.training.initial import load_initial
from dstc_engine.training.prior import TINY_UNET, train_prior
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

Train = Callable[[Path, Path, str | None, float], Path]


# The rate: at 0 the weights stay those that the run started from.
def _prior(data: Path, out: Path, initial: str | None, rate: float) -> Path:
    how = replace(PRIOR, steps=2, peak_rate=rate)
    return train_prior(data, out, UNET, how, initial=initial)


def _vit(data: Path, out: Path, initial: str | None, rate: float) -> Path:
    how = replace(VIT_TRAINING, steps=2, peak_rate=rate)
    return train_vit(data, out, VIT, how, initial=initial)


def _clip(data: Path, out: Path, initial: str | None, rate: float) -> Path:
    how = replace(CLIP_TRAINING, steps=2, peak_rate=rate)
    return train_clip(data, out, CLIP, how, initial=initial)


TRAIN: dict[str, Train] = {"prior": _prior, "vit": _vit, "clip": _clip}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    large = write_drawings(folder / "large.parquet", size=SIZE)
    small = write_drawings(folder / "small.parquet", size=PRIOR_SIZE)
    return {"prior": small, "vit": large, "clip": large}


@pytest.fixture(scope="module")
def trained(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return {name: TRAIN[name](data[name], folder / name, None, 1e-2) for name in TRAIN}


def _record(weights: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text())
    return record


@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize("form", ["folder", "description"])
def test_a_run_starts_from_an_earlier_ones_weights(
    name: str, form: str, data: dict[str, Path], trained: dict[str, Path], tmp_path: Path
) -> None:
    earlier = trained[name]
    given = str(earlier.parent if form == "folder" else earlier.with_suffix(".json"))
    started = TRAIN[name](data[name], tmp_path / "run", given, 0.0)

    want, got = load_file(earlier), load_file(started)
    assert want.keys() == got.keys()
    # An average of equal weights may be off in the last digit.
    assert all(torch.allclose(want[key], got[key], rtol=1e-6, atol=0) for key in want)
    digest = hashlib.sha256(earlier.read_bytes()).hexdigest()
    assert _record(started)["initial"] == {"name": given, "sha256": digest}
    assert _record(earlier)["initial"] is None


def test_a_run_starts_from_registered_weights_in_float16() -> None:
    unet = UNet(TINY_UNET)
    initial = load_initial(unet, "emoji64-prior", "prior", asdict(TINY_UNET))
    first = unet.input_blocks[0][0].weight
    assert first.dtype == torch.float32 and first.abs().sum() > 0
    assert initial.name == "emoji64-prior" and len(initial.sha256) == 64


def test_a_run_is_continued_by_the_same_command_or_without_weights_to_start_from(
    data: dict[str, Path], trained: dict[str, Path], tmp_path: Path
) -> None:
    given, drawings = str(trained["vit"].parent), data["vit"]
    first = _record(_vit(drawings, tmp_path, given, 0.0))["initial"]
    (tmp_path / "vit.json").unlink()
    _vit(drawings, tmp_path, given, 0.0)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["initial"] == first and state["step"] == 2
    _vit(drawings, tmp_path, None, 0.0)

    with pytest.raises(UserError, match=f"run there started from {given}, not from elsewhere"):
        _vit(drawings, tmp_path, "elsewhere", 0.0)
    with pytest.raises(UserError, match="run there started from random weights, not from else"):
        _vit(drawings, trained["vit"].parent, "elsewhere", 0.0)


def test_a_continued_run_still_tells_what_it_started_from(
    data: dict[str, Path], trained: dict[str, Path], tmp_path: Path
) -> None:
    given = str(trained["prior"].parent)
    first = _record(_prior(data["prior"], tmp_path, given, 1e-3))
    longer = train_prior(data["prior"], tmp_path, UNET, replace(PRIOR, steps=3))
    assert _record(longer)["steps"] == 3
    assert _record(longer)["initial"] == first["initial"]


def test_weights_that_are_not_there_are_the_users_to_mend(
    data: dict[str, Path], trained: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown weights 'emoji64-piror'; did you mean emoji64-pr"):
        _prior(data["prior"], tmp_path, "emoji64-piror", 0.0)
    with pytest.raises(UserError, match=r"description .*prior\.json: cannot be read"):
        _prior(data["prior"], tmp_path, str(trained["vit"].parent), 0.0)
    with pytest.raises(UserError, match="are of kind vit; expected prior"):
        _prior(data["prior"], tmp_path, str(trained["vit"].with_suffix(".json")), 0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("prior", "emoji64-prior", "image_size is 64, expected 8; multipliers is"),
        ("vit", "emoji64-vit", "img_size is 64, expected 16"),
        ("clip", "emoji64-clip", "embed_dim is 128, expected "),
    ],
)
def test_weights_of_another_size_are_refused(
    name: str, given: str, reason: str, data: dict[str, Path], tmp_path: Path
) -> None:
    message = f"cannot start from {given}: it is another network; {reason}"
    with pytest.raises(UserError, match=message):
        TRAIN[name](data[name], tmp_path, given, 0.0)


def _altered(weights: Path, folder: Path, **changes: object) -> str:
    record = _record(weights)
    folder.mkdir(exist_ok=True)
    (folder / weights.name).write_bytes(weights.read_bytes())
    path = (folder / weights.name).with_suffix(".json")
    path.write_text(json.dumps({**record, **changes}))
    return str(path)


def test_what_fits_by_its_tensors_alone_is_refused(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    sizes = asdict(UNET)
    other_heads = _altered(trained["prior"], tmp_path, architecture={**sizes, "head_channels": 16})
    with pytest.raises(UserError, match="another network; head_channels is 16, expected 32$"):
        load_initial(UNet(UNET), other_heads, "prior", sizes)
    cosine = _altered(trained["prior"], tmp_path, schedule={"kind": "cosine"})
    with pytest.raises(UserError, match="it was trained with .*'cosine'.*expected .*'linear'"):
        load_initial(UNet(UNET), cosine, "prior", sizes)


def test_dropout_is_a_setting_of_the_training_not_of_the_network(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    dropped = _altered(trained["prior"], tmp_path, architecture={**asdict(UNET), "dropout": 0.1})
    load_initial(UNet(UNET), dropped, "prior", asdict(UNET))


def test_a_file_that_lacks_tensors_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    given = _altered(trained["prior"], tmp_path)
    tensors = load_file(trained["prior"])
    tensors.pop("out.2.bias")
    save_file(tensors, tmp_path / "prior.safetensors")
    with pytest.raises(UserError, match=r"another network; .*1 tensors do not fit: out\.2\.bias"):
        load_initial(UNet(UNET), given, "prior", asdict(UNET))
