"""The denoiser's forward pass, plain and class-conditional, and what is read from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dstc_engine.crops import CropRange
from dstc_engine.diffusion.sampling import ChainTables, posterior_mean, read_denoiser
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.guidance.conditions import encode_conditions
from dstc_engine.guidance.guide import guide
from dstc_engine.losses import WEIGHTED
from dstc_engine.models import Models
from dstc_engine.noise import RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from dstc_engine.weights.architectures import layout
from dstc_engine.weights.registry import find
from tests.parity.conftest import FORWARD, GRADIENT, relative_error


def test_forward(unet: UNet, goldens: dict[str, Tensor]) -> None:
    ours = unet(goldens["unet/x"], goldens["unet/t"])
    assert relative_error(ours, goldens["unet/out"]) < FORWARD


def test_class_conditional_forward(
    folder: Path, config: dict[str, Any], goldens: dict[str, Tensor]
) -> None:
    if not (folder / "unet_classcond.safetensors").exists():
        pytest.skip("this goldens folder has no class-conditional UNet; the full set does")
    network = UNet(UNetConfig.from_flags({**config["config"], "class_cond": True}))
    network.load_state_dict(load_file(folder / "unet_classcond.safetensors"), strict=True)
    ours = network(goldens["unet/x"], goldens["unet/t"], goldens["unet_classcond/y"])
    assert relative_error(ours, goldens["unet_classcond/out"]) < FORWARD


def test_class_conditional_guidance(
    folder: Path, config: dict[str, Any], goldens: dict[str, Tensor], models: Models
) -> None:
    """The engine's own step shows each row its class: noise, x0 and the gradient behind them."""
    if not (folder / "unet_classcond.safetensors").exists():
        pytest.skip("this goldens folder has no class-conditional UNet; the full set does")
    state = load_file(folder / "unet_classcond.safetensors")
    flags = {**config["config"], "class_cond": True}
    network = UNet(UNetConfig.from_flags(flags, classes=len(state["label_emb.weight"])))
    network.load_state_dict(state, strict=True)
    shown = Models(unet=network, dino=models.dino, clips=models.clips)
    preset = Preset(name="goldens", image_size=network.config.image_size, clips=("none",), crops=1)
    content = goldens["image/source_uint8"].permute(1, 2, 0).numpy()
    row = TranslationRequest(id="row", content=content, style=content, seed=0)
    ranges = CropRange(count=1, rotation=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    noise = RowNoise(0, preset.image_size, ranges)
    x, times, y = goldens["unet/x"], goldens["unet/t"], goldens["unet_classcond/y"]
    own, _ = encode_conditions(shown, preset, row)
    to = own.empty(len(x))
    for slot in range(len(x)):
        to[slot] = own
    table = ChainTables(Schedule.respaced("1000")).at(times.long())
    weights = torch.zeros(len(x), len(WEIGHTED))
    weights[:, WEIGHTED.index("range")] = preset.weight_range
    crops = torch.stack([noise.crops().expand(len(x), -1, -1, -1) for _ in shown.clips])
    seen = guide(shown, preset, x, table, to, to.source_cls, crops, weights, classes=y)

    golden = goldens["unet_classcond/out"][:, :3]
    assert relative_error(seen.denoised.eps, golden) < FORWARD
    expected = table.inverse_signal * x - table.inverse_noise * golden
    assert relative_error(seen.denoised.x0, expected) < FORWARD
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        eps = network(leaf, times, y)[:, :3]
        x0 = table.inverse_signal * leaf - table.inverse_noise * eps
        loss = preset.weight_range * (x0 - x0.clamp(-1, 1)).pow(2).flatten(1).mean(1).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
    assert relative_error(seen.push, -gradient) < GRADIENT


def test_mean_and_variance(unet: UNet, config: dict[str, Any], goldens: dict[str, Tensor]) -> None:
    schedule = Schedule.respaced(config["config"]["timestep_respacing"])
    table = ChainTables(schedule).at(goldens["pmv/t_index"])
    x = goldens["unet/x"]
    said = read_denoiser(unet(x, table.time), x, table)
    assert relative_error(said.x0, goldens["pmv/pred_xstart"]) < FORWARD
    assert relative_error(posterior_mean(said.x0, x, table), goldens["pmv/mean"]) < FORWARD
    assert relative_error(said.log_variance, goldens["pmv/log_variance"]) < FORWARD
    assert relative_error(said.log_variance.exp(), goldens["pmv/variance"]) < FORWARD


def test_layouts_of_published_checkpoints(layouts: dict[str, Any]) -> None:
    """Names and shapes of every tensor, so that the real files will load strictly."""
    for name in ("256x256_diffusion_uncond", "512x512_diffusion", "ffhq_10m"):
        with torch.device("meta"):
            network = UNet(UNetConfig.from_flags(layouts[name]["config"]))
        ours = {tensor: list(shape) for tensor, shape in network.layout()}
        assert ours == layouts[name]["tensors"], name


def test_registered_priors_have_the_published_layouts(layouts: dict[str, Any]) -> None:
    """The flags that the registry's names stand for, and not only those of the goldens."""
    for name, checkpoint in (
        ("adm-imagenet256", "256x256_diffusion_uncond"),
        ("adm-imagenet512", "512x512_diffusion"),
        ("adm-ffhq256", "ffhq_10m"),
    ):
        ours = {tensor: list(shape) for tensor, shape in layout(find(name)).items()}
        assert ours == layouts[checkpoint]["tensors"], name
