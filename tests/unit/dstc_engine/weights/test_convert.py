"""Published files become safetensors: strictly, in their own precision, origin told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.errors import WeightsError
from dstc_engine.weights import load
from dstc_engine.weights.architectures import layout
from dstc_engine.weights.convert import _each_its_own, convert
from dstc_engine.weights.record import Weights
from dstc_engine.weights.registry import REGISTRY, find, verify
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.weights.archives import save_archive


def published_state(name: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Small random numbers in the layout of a published file."""
    with torch.device("meta"):
        types = ArcFace().state_dict() if name == "arcface-ir-se50" else {}
    state = {}
    for tensor, shape in layout(find(name)).items():
        if tensor in types and not types[tensor].is_floating_point():
            state[tensor] = torch.tensor(3)
        else:
            state[tensor] = 0.02 * torch.randn(shape, generator=generator)
    return state


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def save(state: Any, path: Path) -> str:
    torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_face_network_from_its_own_file_to_its_features(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    state = published_state("arcface-ir-se50", generator)
    found = save(state, tmp_path / "model_ir_se50.pth")
    record = dataclasses.replace(find("arcface-ir-se50"), sha256=found)
    monkeypatch.setitem(REGISTRY, record.name, record)
    path = convert(record, tmp_path / "model_ir_se50.pth", folder, found, published=True)
    assert path == folder / "arcface-ir-se50.safetensors" == verify(record.name)
    description = json.loads(path.with_suffix(".json").read_text())
    assert description["upstream_sha256"] == found and description["upstream_published"] is True
    assert description["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o644, "readable by the users of other nodes"
    assert description["size"] == path.stat().st_size and description["file"] == "model_ir_se50.pth"
    network = load.load_arcface(record.name, (35, 223, 32, 220))
    assert torch.equal(
        network.state_dict()["body.3.res_layer.1.weight"], state["body.3.res_layer.1.weight"]
    )
    assert int(network.input_layer[1].num_batches_tracked) == 3
    assert sorted(p.name for p in folder.iterdir()) == [
        "arcface-ir-se50.json",
        "arcface-ir-se50.safetensors",
    ]


def test_names_that_only_the_published_file_has(
    folder: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    state = published_state("dinov2-vits14", generator)
    state["mask_token"] = torch.zeros(1, 384)
    found = save(state, tmp_path / "dinov2.pth")
    path = convert(find("dinov2-vits14"), tmp_path / "dinov2.pth", folder, found, published=False)
    assert load_file(path).keys() == layout(find("dinov2-vits14")).keys()
    state["another_token"] = torch.zeros(1)
    save(state, tmp_path / "dinov2.pth")
    with pytest.raises(WeightsError, match="1 tensors do not fit: another_token is unknown"):
        convert(find("dinov2-vits14"), tmp_path / "dinov2.pth", folder, found, published=False)


def test_the_precision_of_the_file_is_kept(
    folder: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    state = published_state("dino-vits16", generator)
    half = {name: tensor.half() for name, tensor in state.items()}
    found = save(half, tmp_path / "half.pth")
    path = convert(find("dino-vits16"), tmp_path / "half.pth", folder, found, published=False)
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    network = load.load_dino("dino-vits16", 224, -1)
    assert {p.dtype for p in network.vit.parameters()} == {torch.float32}
    assert torch.equal(network.vit.cls_token, half["cls_token"].float())


def test_tensors_that_share_memory_are_parted_and_others_are_not_copied() -> None:
    whole = torch.arange(6.0)
    state = {"whole": whole, "view": whole[:3], "turned": torch.arange(6.0).reshape(2, 3).T}
    own = _each_its_own(state)
    assert own["whole"] is whole, "the largest prior is 2.2 GB"
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert all(tensor.is_contiguous() for tensor in own.values())
    assert own["view"].untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()


@pytest.fixture
def small_clip(monkeypatch: pytest.MonkeyPatch) -> Weights:
    """OpenAI's ViT-B/32 in the registry, shrunken in open_clip's table of sizes."""
    sizes = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": tiny.CLIP_VISION,
        "text_cfg": tiny.CLIP_TEXT,
    }
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: sizes)
    return find("clip-vit-b-32")


def openai_archive(path: Path, image_size: int = tiny.SIZE) -> tuple[open_clip.CLIP, str]:
    """A CLIP with QuickGELU in the form of OpenAI's archives, and the sum of its file."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        model = open_clip.CLIP(
            16,
            vision_cfg=open_clip.CLIPVisionCfg(**tiny.CLIP_VISION),
            text_cfg=open_clip.CLIPTextCfg(**tiny.CLIP_TEXT),
            quick_gelu=True,
        ).eval()
    numbers = {"input_resolution": image_size, "context_length": 64, "vocab_size": 258}
    for name, value in numbers.items():
        delattr(model, name) if hasattr(model, name) else None
        model.register_buffer(name, torch.tensor(value))
    example = (torch.randn(1, 3, tiny.SIZE, tiny.SIZE), tiny.tokenize(["a fox"]))
    save_archive(model, example, path)
    return model, hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_openai_archive_from_its_file_to_its_features(
    folder: Path, small_clip: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published and by hand, and converted: the same features as open_clip's own model."""
    model, found = openai_archive(folder / "ViT-B-32.pt")
    record = dataclasses.replace(small_clip, sha256=found)
    monkeypatch.setitem(REGISTRY, record.name, record)
    crops = torch.rand(2, 3, tiny.SIZE, tiny.SIZE) * 2 - 1
    by_hand = load.load_clip(record.name)
    path = convert(record, folder / "ViT-B-32.pt", folder, found, published=True)
    assert not {"input_resolution", "context_length", "vocab_size"} & load_file(path).keys()
    (folder / "ViT-B-32.pt").unlink()
    for clip in (by_hand, load.load_clip(record.name)):
        clip = clip.eval()
        with torch.no_grad():
            shown = ((crops + 1) / 2 - clip.mean) / clip.std
            theirs = model.encode_image(shown, normalize=True)
            torch.testing.assert_close(clip.embed_crops(crops), theirs, rtol=1e-5, atol=1e-6)
            tokens = tiny.tokenize(["a fox"])
            torch.testing.assert_close(
                clip.model.encode_text(tokens), model.encode_text(tokens), rtol=1e-5, atol=1e-6
            )


def test_numbers_of_an_archive_must_agree_with_its_shapes(
    folder: Path, tmp_path: Path, small_clip: Weights
) -> None:
    _, found = openai_archive(tmp_path / "clip.pt", image_size=288)
    with pytest.raises(WeightsError, match="input_resolution is 288, expected 16"):
        convert(small_clip, tmp_path / "clip.pt", folder, found, published=True)
    assert not list(folder.iterdir())


def test_another_network_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="other.pth: 151 tensors do not fit"):
        convert(find("dino-vits8"), tmp_path / "other.pth", folder, "0" * 64, published=False)
    assert not list(folder.iterdir())


# -- what `verify` says of converted files ---------------------------------------------------------


@pytest.fixture
def converted(folder: Path, tmp_path: Path, generator: torch.Generator) -> Path:
    found = save(published_state("dino-vits16", generator), tmp_path / "vit.pth")
    return convert(find("dino-vits16"), tmp_path / "vit.pth", folder, found, published=False)


def test_an_altered_file_is_refused(converted: Path) -> None:
    converted.write_bytes(converted.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="has sha256 .*; expected"):
        verify("dino-vits16")


def test_a_file_made_from_another_is_refused(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = dataclasses.replace(find("dino-vits16"), sha256="1" * 64)
    monkeypatch.setitem(REGISTRY, record.name, record)
    with pytest.raises(WeightsError, match="was made from a file of sha256 .*; expected 1111"):
        verify("dino-vits16")


@pytest.mark.parametrize("text", [None, "{}", "no json"])
def test_a_file_without_a_word_on_its_origin_is_refused(converted: Path, text: str | None) -> None:
    converted.with_suffix(".json").unlink()
    if text is not None:
        converted.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match="does not tell what lies beside it"):
        verify("dino-vits16")
