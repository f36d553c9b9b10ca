"""Respaced tables, bit for bit but for the last digit of float64."""

import numpy as np
import pytest
from safetensors import safe_open
from torch import Tensor

from dstc_engine.diffusion.schedule import Schedule
from tests.parity.golden_networks import goldens_folder

ATTRIBUTES = {
    "betas": "betas",
    "alphas_cumprod": "alphas_cumprod",
    "alphas_cumprod_prev": "alphas_cumprod_prev",
    "posterior_log_variance_clipped": "posterior_log_variance",
    "posterior_mean_coef1": "posterior_mean_coef1",
    "posterior_mean_coef2": "posterior_mean_coef2",
}


def respacings() -> list[str]:
    with safe_open(goldens_folder() / "goldens.safetensors", "pt") as file:
        return sorted({k.split("/")[1] for k in file.keys() if k.startswith("schedule/")})


@pytest.mark.parametrize("respacing", respacings())
def test_tables_of_a_respaced_schedule(respacing: str, goldens: dict[str, Tensor]) -> None:
    schedule = Schedule.respaced(respacing)
    golden = {k.split("/")[2]: v for k, v in goldens.items() if k.split("/")[1:2] == [respacing]}
    assert schedule.times.tolist() == golden.pop("timestep_map").tolist()
    root = np.sqrt(1 - schedule.alphas_cumprod)
    np.testing.assert_allclose(
        root, golden.pop("sqrt_one_minus_alphas_cumprod").numpy(), rtol=1e-12, atol=1e-15
    )
    assert set(golden) == set(ATTRIBUTES)
    for name, ours in ATTRIBUTES.items():
        np.testing.assert_allclose(
            getattr(schedule, ours), golden[name].numpy(), rtol=1e-12, atol=1e-15, err_msg=name
        )
