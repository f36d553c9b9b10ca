from __future__ import annotations

import math

import pytest
import torch

from dstc_engine.diffusion.sampling import ChainTables, add_noise
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.errors import UserError
from dstc_engine.training.prior import (
    PriorTraining,
    augment,
    draw_times,
    prior_loss,
    variational_bound,
)

TABLES = ChainTables(Schedule.respaced("1000"), "cpu")


def _noised(times: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(len(times), 3, 8, 8, generator=generator) * 2 - 1
    noise = torch.randn(x0.shape, generator=generator)
    return x0, noise, add_noise(x0, noise, TABLES.at(torch.tensor(times)))


def test_the_bound_is_zero_for_the_true_noise_and_the_posterior_variance() -> None:
    x0, noise, x = _noised([200, 700])
    # v = -1 names the lower end of the variance range, which is the posterior's.
    output = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    bound = variational_bound(output, x0, x, TABLES.at(torch.tensor([200, 700])))
    assert bound.shape == (2,)
    assert bound.abs().max() < 1e-4


def test_the_bound_grows_with_a_wrong_mean_and_a_wrong_variance() -> None:
    x0, noise, x = _noised([500])
    table = TABLES.at(torch.tensor([500]))
    wrong_mean = torch.cat([noise + 0.5, -torch.ones_like(noise)], dim=1)
    wrong_variance = torch.cat([noise, torch.ones_like(noise)], dim=1)
    assert variational_bound(wrong_mean, x0, x, table) > 1e-3
    assert variational_bound(wrong_variance, x0, x, table) > 0


def test_the_last_step_costs_bits_per_pixel_value() -> None:
    x0, noise, x = _noised([0])
    output = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    bound = variational_bound(output, x0, x, TABLES.at(torch.tensor([0])))
    # A bin is 1/127.5 wide; the first step's standard deviation is 0.01: about two bits are left.
    assert 0 < float(bound) < 4


def test_the_bound_does_not_train_the_noise() -> None:
    x0, noise, x = _noised([300, 0])
    output = torch.zeros(2, 6, 8, 8, requires_grad=True)
    table = TABLES.at(torch.tensor([300, 0]))
    prior_loss(output, x0, x, noise, table).sum().backward()
    assert output.grad is not None
    simple = -2 * noise / noise[0].numel()
    assert torch.allclose(output.grad[:, :3], simple, atol=1e-7)
    assert output.grad[:, 3:].abs().sum() > 0


def test_l1_counts_small_errors_by_their_sign() -> None:
    x0, noise, x = _noised([300])
    table = TABLES.at(torch.tensor([300]))
    noise_said = (noise - 0.01 * noise.sign()).requires_grad_()
    output = torch.cat([noise_said, torch.zeros_like(noise)], dim=1)
    loss = prior_loss(output, x0, x, noise, table, l1=0.5)
    without = prior_loss(output, x0, x, noise, table)
    assert (loss - without).item() == pytest.approx(0.5 * 0.01, rel=1e-3)
    (gradient,) = torch.autograd.grad(loss.sum(), noise_said)
    expected = -noise.sign() * (2 * 0.01 + 0.5) / noise.numel()
    assert torch.allclose(gradient, expected, rtol=1e-3)


@pytest.mark.parametrize("l1", [-0.1, math.inf, math.nan])
def test_an_l1_that_is_no_weight_is_refused(l1: float) -> None:
    with pytest.raises(UserError, match=f"l1 is {l1}; expected a weight, 0 or more"):
        PriorTraining(l1=l1)


def test_each_image_has_its_own_loss() -> None:
    x0, noise, x = _noised([100, 600])
    output = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    both = prior_loss(output, x0, x, noise, TABLES.at(torch.tensor([100, 600])))
    alone = prior_loss(output[1:], x0[1:], x[1:], noise[1:], TABLES.at(torch.tensor([600])))
    assert torch.allclose(both[1:], alone)
    assert math.isfinite(float(both.sum()))


def test_augmented_images_move_and_are_padded_with_white() -> None:
    image = -torch.ones(64, 3, 8, 8)
    moved = augment(image, 2, torch.Generator().manual_seed(0))
    assert moved.shape == image.shape
    dark = (moved < 0).flatten(1).sum(1)
    assert set(moved.unique().tolist()) == {-1.0, 1.0}
    assert int(dark.min()) == 3 * 6 * 6 and int(dark.max()) == 3 * 8 * 8


def test_times_are_all_alike_by_default() -> None:
    drawn = draw_times(5, PriorTraining(), torch.Generator().manual_seed(0))
    expected = torch.randint(0, 1000, (5,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, expected)


def test_a_share_of_the_times_is_low() -> None:
    how = PriorTraining(low_noise=0.8, low_noise_below=500)
    drawn = draw_times(20000, how, torch.Generator().manual_seed(0))
    assert int(drawn.min()) == 0 and int(drawn.max()) == 999
    # Half of the other fifth is low as well.
    assert float((drawn < 500).float().mean()) == pytest.approx(0.9, abs=0.01)
    assert float((drawn < 250).float().mean()) == pytest.approx(0.45, abs=0.015)


def test_all_times_are_low_if_so_asked() -> None:
    how = PriorTraining(low_noise=1.0, low_noise_below=3)
    drawn = draw_times(100, how, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 1, 2}
