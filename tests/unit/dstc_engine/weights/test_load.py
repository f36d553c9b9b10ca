"""Networks from files: strictly, and with a word on what does not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dstc_engine.errors import WeightsError
from dstc_engine.weights import architectures, formats, load, places
from dstc_engine.weights.registry import REGISTRY, Weights, file_sha256
from tests.unit.dstc_engine import tiny

# Of `tiny.UNET`.
FLAGS: dict[str, object] = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "num_head_channels": 32,
    "learn_sigma": True,
    "resblock_updown": True,
}

Ship = Callable[[str, nn.Module, dict[str, Any]], Weights]


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Registers a network as shipped weights that lie in a temporary folder."""
    monkeypatch.setattr(places, "SHIPPED", tmp_path)

    def write(name: str, network: nn.Module, told: dict[str, Any]) -> Weights:
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        path.with_suffix(".json").write_text(json.dumps(told))
        made = Weights(
            name=name,
            file=path.name,
            source="here",
            sha256=file_sha256(path),
            licence="MIT",
            shipped=True,
        )
        monkeypatch.setitem(REGISTRY, name, made)
        return made

    return write


def equal_states(ours: nn.Module, theirs: nn.Module) -> bool:
    state = theirs.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_a_shipped_prior(ship: Ship) -> None:
    unet = tiny.make_unet()
    ship("some-prior", unet, {"architecture": dataclasses.asdict(tiny.UNET)})
    loaded = load.load_unet("some-prior", 16)
    assert loaded.config == tiny.UNET and equal_states(loaded, unet)
    with pytest.raises(WeightsError, match="makes pictures of 16 pixels; the preset's image_size"):
        load.load_unet("some-prior", 64)


def test_a_shipped_vit(ship: Ship) -> None:
    vit = tiny.make_vit()
    ship("some-vit", vit, {"architecture": tiny.VIT, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]})
    loaded = load.load_dino("some-vit", 16, -1)
    assert equal_states(loaded.vit, vit) and loaded.layer == 1
    assert loaded.std.flatten().tolist() == [1, 2, 3]
    with pytest.raises(
        WeightsError, match="looks at 16 pixels; the preset's dino_size is 32, expected 16$"
    ):
        load.load_dino("some-vit", 32, -1)


def test_a_shipped_clip(ship: Ship) -> None:
    clip = tiny.make_clip()
    architecture = {
        "embed_dim": 16,
        "vision_cfg": tiny.CLIP_VISION,
        "text_cfg": tiny.CLIP_TEXT,
        "quick_gelu": False,
    }
    ship(
        "some-clip",
        clip.model,
        {"architecture": architecture, "mean": tiny.MEAN, "std": tiny.STD},
    )
    loaded = load.load_clip("some-clip")
    assert equal_states(loaded.model, clip.model) and loaded.size == 16
    assert loaded.tokenizer(["a fox"]).shape == (1, 64)


def test_a_prior_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = tiny.make_unet()
    state = {name: tensor.half() for name, tensor in unet.state_dict().items()}
    torch.save(state, tmp_path / "some.pt")
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path))
    made = Weights(name="some", file="some.pt", source="there", sha256=None, licence="MIT")
    monkeypatch.setitem(REGISTRY, "some", made)
    monkeypatch.setitem(architectures.PUBLISHED_FLAGS, "some", FLAGS)
    loaded = load.load_unet("some", 16)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    torch.testing.assert_close(
        loaded.out[2].weight, unet.out[2].weight.half().float(), atol=0, rtol=0
    )


def small_state() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in nn.Linear(3, 2).state_dict().items()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bias": None}, "1 tensors do not fit: bias is missing"),
        ({"extra": torch.zeros(1)}, "1 tensors do not fit: extra is unknown"),
        ({"weight": torch.zeros(3, 2)}, r"weight is \(3, 2\), expected \(2, 3\)"),
        ({"bias": None, "beta": torch.zeros(2)}, "2 tensors do not fit: beta is unknown; bias is"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor | None], told: str) -> None:
    state = {k: v for k, v in (small_state() | change).items() if v is not None}
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(WeightsError, match=f"^some/file.pt: .*{told}"):
        load.load_strictly(network, state, Path("some/file.pt"))
    assert torch.equal(network.weight, before), "nothing is filled in halfway"


@pytest.mark.parametrize("name", ["some.pt", "some.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_are_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: not readable as weights"):
        formats.read_tensors(tmp_path / name)


def test_pickles_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"hook": print}, tmp_path / "some.pt")
    with pytest.raises(WeightsError, match="not readable as weights"):
        formats.read_tensors(tmp_path / "some.pt")
