"""The denoiser's forward pass, plain and class-conditional, and what is read from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dstc_engine.sampling import ChainTables, posterior_mean, read_denoiser
from dstc_engine.schedule import Schedule
from dstc_engine.unet import UNet, UNetConfig
from tests.parity.conftest import FORWARD, relative_error


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
