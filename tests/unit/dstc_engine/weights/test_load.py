"""Networks from files: strictly, and with a word on what does not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
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

    def write(name: str, network: nn.Module, description: dict[str, Any]) -> Weights:
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        path.with_suffix(".json").write_text(json.dumps(description))
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
    with pytest.raises(WeightsError, match="makes images of 16 pixels; the preset's image_size"):
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
    ("change", "message"),
    [
        ({"bias": None}, "1 tensors do not fit: bias is missing"),
        ({"extra": torch.zeros(1)}, "1 tensors do not fit: extra is unknown"),
        ({"weight": torch.zeros(3, 2)}, r"weight is \(3, 2\), expected \(2, 3\)"),
        ({"bias": None, "beta": torch.zeros(2)}, "2 tensors do not fit: beta is unknown; bias is"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor | None], message: str) -> None:
    state = {k: v for k, v in (small_state() | change).items() if v is not None}
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(WeightsError, match=f"^some/file.pt: .*{message}"):
        load.load_strictly(network, state, Path("some/file.pt"))
    assert torch.equal(network.weight, before), "nothing is filled in halfway"


@pytest.mark.parametrize("name", ["some.pt", "some.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_are_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: not readable as weights"):
        formats.read_tensors(tmp_path / name)


def test_a_state_dict_may_be_wrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": small_state(), "epoch": 3}, tmp_path / "some.pt")
    assert formats.read_tensors(tmp_path / "some.pt").keys() == {"weight", "bias"}


def test_a_file_of_several_networks_is_refused(tmp_path: Path) -> None:
    torch.save({"model": small_state(), "model_ema": small_state()}, tmp_path / "some.pt")
    with pytest.raises(WeightsError, match="holds several networks, model, model_ema; expected"):
        formats.read_tensors(tmp_path / "some.pt")


# -- networks from the meta device: what no file holds is computed ---------------------------------


def test_a_clip_gets_its_causal_mask(ship: Ship) -> None:
    clip = tiny.make_clip()
    architecture = {
        "embed_dim": 16,
        "vision_cfg": tiny.CLIP_VISION,
        "text_cfg": tiny.CLIP_TEXT,
    }
    description = {"architecture": architecture, "mean": tiny.MEAN, "std": tiny.STD}
    ship("some-clip", clip.model, description)
    loaded = load.load_clip("some-clip").model
    assert not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])
    assert torch.equal(loaded.attn_mask, clip.model.attn_mask)
    tokens = tiny.tokenize(["a fox", "an owl"])
    with torch.no_grad():
        assert torch.equal(loaded.encode_text(tokens), clip.model.encode_text(tokens))


# -- matrices that were stored without their empty rows --------------------------------------------


def test_rows_that_were_left_out_are_zero() -> None:
    network = nn.Embedding(6, 2)
    stored = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    rows = torch.tensor([1, 4], dtype=torch.int32)
    state = {"weight": stored, "weight.rows": rows}
    load.load_strictly(network, state, Path("some.safetensors"))
    expected = torch.zeros(6, 2)
    expected[[1, 4]] = stored
    assert torch.equal(network.weight, expected)
    assert set(state) == {"weight", "weight.rows"}, "the caller's state was changed"


@pytest.mark.parametrize("rows", [[1], [1, 6], [-1, 4]])
def test_rows_that_do_not_fit_are_named(rows: list[int]) -> None:
    state = {"weight": torch.ones(2, 2), "weight.rows": torch.tensor(rows)}
    with pytest.raises(WeightsError, match="weight.rows is unknown"):
        load.load_strictly(nn.Embedding(6, 2), state, Path("some.safetensors"))


def test_a_dinov3_gets_its_angles() -> None:
    def build() -> Any:
        sizes: dict[str, Any] = dict(depth=2, embed_dim=24, num_heads=2, num_classes=0)
        return timm.create_model("vit_small_patch16_dinov3", img_size=32, **sizes)

    real = build().eval()
    tiny.awaken(real, 3)
    with torch.device("meta"):
        network = build().eval()
    load.load_strictly(network, real.state_dict(), Path("some.safetensors"))
    assert not any(t.is_meta for t in [*network.parameters(), *network.buffers()])
    for network_ in (network, real):  # another size of images takes the same angles
        network_.set_input_size(img_size=(48, 48))
    image = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network.forward_features(image), real.forward_features(image))


# -- published ViTs look at other sizes, too -------------------------------------------------------


@pytest.fixture
def small_vit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VisionTransformer:
    """DINO ViT-S/16 in the registry and the folder, shrunken in timm's own table of sizes."""
    sizes: dict[str, Any] = dict(depth=2, embed_dim=24, num_heads=2)
    real = timm.create_model

    def create(name: str, **options: Any) -> Any:
        return real(name, **(options | sizes))

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(8)
        vit: VisionTransformer = create("vit_small_patch16_224", num_classes=0)
    with torch.no_grad():
        vit.pos_embed.normal_(generator=torch.Generator().manual_seed(8))
    torch.save(vit.state_dict(), tmp_path / "dino_deitsmall16_pretrain.pth")
    return vit.eval()


def test_positions_are_resampled_as_timm_does(small_vit: VisionTransformer) -> None:
    dino = load.load_dino("dino-vits16", 112, -1).eval()
    assert dino.size == 112 and dino.vit.pos_embed.shape == (1, 1 + 7 * 7, 24)
    image = torch.rand(1, 3, 112, 112)
    small_vit.set_input_size(img_size=(112, 112))
    seen: list[Tensor] = []
    small_vit.blocks[-1].register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        small_vit.forward_features(image)
        features = dino.features(image)
    assert features.keys.shape == (1, 1 + 7 * 7, 24)
    torch.testing.assert_close(features.cls, seen[0][:, 0], rtol=1e-5, atol=1e-5)


def test_the_trained_size_keeps_its_positions(small_vit: VisionTransformer) -> None:
    dino = load.load_dino("dino-vits16", 224, -1)
    assert torch.equal(dino.vit.pos_embed, small_vit.pos_embed)


def test_a_size_between_patches_is_refused(small_vit: VisionTransformer) -> None:
    message = "looks at 224 pixels; .* is 230, expected 224, or another multiple of 16"
    with pytest.raises(WeightsError, match=message):
        load.load_dino("dino-vits16", 230, -1)


def test_pickles_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"hook": print}, tmp_path / "some.pt")
    with pytest.raises(WeightsError, match="not readable as weights"):
        formats.read_tensors(tmp_path / "some.pt")
