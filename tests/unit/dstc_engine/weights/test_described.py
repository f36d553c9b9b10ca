"""Priors and encoders of a user's own, by the path of what describes them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from dstc_engine.diffusion.schedule import NoiseSchedule
from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.errors import WeightsError
from dstc_engine.models import load_models
from dstc_engine.presets import get_preset, with_fields
from dstc_engine.weights import load, places
from dstc_engine.weights.described import read_description
from dstc_engine.weights.registry import find, verify, weights_of
from tests.unit.dstc_engine import tiny

FLAGS: dict[str, object] = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_head_channels": 16,
    "learn_sigma": True,
    "resblock_updown": True,
    "use_new_attention_order": True,
    "noise_schedule": "cosine",
    "diffusion_steps": 4000,
    "rescale_timesteps": True,
}


@pytest.fixture
def adm(tmp_path: Path) -> Path:
    """A description of a checkpoint by its flags, and the checkpoint."""
    network = UNet(UNetConfig.from_flags(FLAGS))
    torch.save(network.state_dict(), tmp_path / "cats.pt")
    path = tmp_path / "cats.yaml"
    path.write_text(yaml.safe_dump({"flags": FLAGS, "licence": "CC BY 4.0"}))
    return path


def test_a_checkpoint_by_its_flags(adm: Path) -> None:
    unet = load.load_unet(str(adm), 16)
    assert unet.config == UNetConfig.from_flags(FLAGS) and unet.config.new_attention_order
    schedule = load.noise_schedule_of(str(adm))
    assert schedule == NoiseSchedule(kind="cosine", steps=4000, rescale_timesteps=True)
    weights = find(str(adm))
    assert weights.licence == "CC BY 4.0" and weights.path.name == "cats.pt"
    assert not weights.is_published


def test_what_training_leaves_is_a_prior(tmp_path: Path) -> None:
    unet = tiny.make_unet()
    save_file(unet.state_dict(), tmp_path / "prior.safetensors")
    description = {
        "architecture": dataclasses.asdict(tiny.UNET),
        "steps": 3,
        "metrics": {"loss": 1.0},
    }
    (tmp_path / "prior.json").write_text(json.dumps(description))
    name = str(tmp_path / "prior.json")
    assert load.load_unet(name, 16).config == tiny.UNET
    assert load.noise_schedule_of(name) == NoiseSchedule()


def test_a_preset_with_a_prior_of_its_own(tmp_path: Path) -> None:
    """All three networks by their descriptions, as `--set` gives them."""
    save_file(tiny.make_unet().state_dict(), tmp_path / "prior.safetensors")
    (tmp_path / "prior.json").write_text(
        json.dumps({"architecture": dataclasses.asdict(tiny.UNET)})
    )
    save_file(tiny.make_vit().state_dict(), tmp_path / "vit.safetensors")
    (tmp_path / "vit.json").write_text(
        json.dumps({"architecture": tiny.VIT, "mean": tiny.MEAN, "std": tiny.STD})
    )
    changes = {"prior": "prior.json", "dino": "vit.json"}
    preset = with_fields(
        get_preset("tiny64"),
        {key: str(tmp_path / name) for key, name in changes.items()}
        | {"image_size": "16", "dino_size": "16", "weight_clip": "0"},
    )
    models = load_models(preset)
    assert models.unet.config == tiny.UNET and models.dino is not None
    done = tiny.run(models, [tiny.request("image", 1)], preset, slots=1)
    assert done["image-1"].status == "done"
    assert [w.sha256 for w in weights_of(preset)] == [None, None], "the run records what it finds"


def test_a_url_stands_for_its_copy_on_this_machine(
    adm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", "s3://bucket/weights")
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(tmp_path / "cache"))
    url = "s3://elsewhere/priors/cats.yaml"
    copy = places.local_copy(url)
    assert copy.is_relative_to(tmp_path / "cache" / "described") and copy.name == "cats.yaml"
    with pytest.raises(WeightsError, match="cats.yaml: cannot be read"):
        find(url)
    copy.parent.mkdir(parents=True)
    for file in (adm, adm.with_suffix(".pt")):
        (copy.parent / file.name).write_bytes(file.read_bytes())
    assert load.load_unet(url, 16).config.image_size == 16
    assert places.local_copy("s3://other/priors/cats.yaml") != copy


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ([1, 2], "found list; expected fields"),
        ({"flag": FLAGS}, "unknown field 'flag'; did you mean flags"),
        ({}, "expected either flags .* or architecture"),
        ({"flags": FLAGS, "architecture": {}}, "expected either flags .* or architecture"),
        ({"flags": "no"}, "flags is 'no'; expected fields"),
        ({"flags": FLAGS, "file": 3}, "file is 3; expected text"),
        ({"flags": FLAGS | {"image_size": "x"}}, "image_size is 'x'; expected a whole number"),
        ({"flags": FLAGS | {"noise_schedule": "sine"}}, "noise schedule is 'sine'"),
        ({"architecture": {"image_size": 16}}, "missing"),
        ({"architecture": {"widths": 3}}, "unexpected keyword argument 'widths'"),
    ],
)
def test_what_is_no_description(description: Any, expected: str, adm: Path) -> None:
    adm.write_text(yaml.safe_dump(description))
    with pytest.raises(WeightsError, match=expected) as caught:
        load.load_unet(str(adm), 16)
        load.noise_schedule_of(str(adm))
    assert "cats.yaml" in str(caught.value)


ENCODER: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3}
CLIP_SIZES: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": tiny.CLIP_VISION,
    "text_cfg": tiny.CLIP_TEXT,
}


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (ENCODER | {"architecture": {"img_size": 16}}, "architecture lacks patch_size, embed_dim"),
        (ENCODER | {"architecture": {"vision_cfg": {}}}, "architecture lacks embed_dim, text_cfg"),
        (
            ENCODER | {"architecture": CLIP_SIZES | {"vision_cfg": {}}},
            "vision_cfg lacks image_size",
        ),
        (
            ENCODER | {"architecture": CLIP_SIZES | {"text_cfg": 3}},
            "text_cfg is 3; expected fields",
        ),
        ({"architecture": tiny.VIT}, "mean is None; expected three numbers"),
        (ENCODER | {"architecture": tiny.VIT, "std": [1, 2]}, r"std is \[1, 2\]; expected three"),
        (ENCODER | {"architecture": tiny.VIT | {"num_heads": 5}}, "cannot be built: "),
        (ENCODER | {"architecture": tiny.VIT | {"deep": 5}}, "cannot be built: .*'deep'"),
        (
            ENCODER | {"architecture": CLIP_SIZES | {"text_cfg": {"context_length": 8, "wide": 3}}},
            "cannot be built: .*'wide'",
        ),
        ({"flags": FLAGS}, "are of kind prior; expected (vit|clip): emoji64"),
    ],
)
def test_what_describes_no_encoder(description: Any, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(description))
    (tmp_path / "encoder.safetensors").write_bytes(b"not looked at before")
    is_clip = "vision_cfg" in description.get("architecture", {})
    with pytest.raises(WeightsError, match=expected) as caught:
        if is_clip:
            load.load_clip(str(path))
        else:
            load.load_dino(str(path), 16, -1)
    assert "encoder.json" in str(caught.value)


def test_a_described_clip(tmp_path: Path) -> None:
    clip = tiny.make_clip()
    save_file(clip.model.state_dict(), tmp_path / "clip.safetensors")
    (tmp_path / "clip.json").write_text(json.dumps(ENCODER | {"architecture": CLIP_SIZES}))
    loaded = load.load_clip(str(tmp_path / "clip.json")).eval()
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        ours, theirs = loaded.model.encode_image(image), clip.model.encode_image(image)
    assert torch.equal(ours, theirs)
    assert loaded.mean.flatten().tolist() == [0.5] * 3


def test_what_decides_images_is_told_with_the_weights(adm: Path) -> None:
    description = {"flags": FLAGS, "licence": "CC BY 4.0", "about": "cats"}
    adm.write_text(yaml.safe_dump(description))
    assert find(str(adm)).settings == {"flags": FLAGS}
    adm.write_text(yaml.safe_dump(description | {"schedule": {"kind": "linear"}}))
    assert find(str(adm)).settings == {"flags": FLAGS, "schedule": {"kind": "linear"}}


@pytest.mark.parametrize(("ending", "message"), [("json", "not JSON"), ("yaml", "not YAML")])
def test_text_that_cannot_be_read(ending: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"cats.{ending}"
    path.write_text("{flags: [")
    with pytest.raises(WeightsError, match=message):
        find(str(path))


def test_a_missing_file_and_another_sum(adm: Path) -> None:
    adm.write_text(yaml.safe_dump({"flags": FLAGS, "sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="has sha256 .*; expected 0000"):
        verify(str(adm))
    adm.with_suffix(".pt").unlink()
    with pytest.raises(WeightsError, match="no file .*cats.safetensors; its description names it"):
        verify(str(adm))


@pytest.mark.parametrize("name", ["prior", "vit", "clip"])
def test_what_training_tells_is_a_description(name: str) -> None:
    description = read_description(places.SHIPPED / f"{name}.json")
    assert "architecture" in description
