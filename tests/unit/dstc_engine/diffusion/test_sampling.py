"""Single steps against the formulas of the method, computed here in float64 from the betas."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dstc_engine.diffusion.sampling import (
    ChainTables,
    Denoised,
    StepTable,
    add_noise,
    ddim_step,
    ddpm_step,
    go_back,
    posterior_mean,
    read_denoiser,
    spherical_step,
    with_posterior_variance,
)
from dstc_engine.diffusion.schedule import NoiseSchedule, Schedule

Table = npt.NDArray[np.float64]
RESPACING, COUNT = "25", 25
INDICES = [24, 13, 1, 0]


def alphas_bar() -> Table:
    """Of the respaced chain: every 41.6th product of 1 - beta."""
    kept = np.round(np.arange(COUNT) * 999 / (COUNT - 1)).astype(int)
    product = 1.0
    bars = []
    for beta in np.linspace(1e-4, 0.02, 1000):
        product *= 1 - beta
        bars.append(product)
    return np.array(bars)[kept]


def tables(indices: list[int]) -> StepTable:
    return ChainTables(Schedule.respaced(RESPACING)).at(torch.tensor(indices))


def normal(generator: torch.Generator, count: int = len(INDICES), channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 4, 4, generator=generator)


def test_ddpm_step_is_the_formula(generator: torch.Generator) -> None:
    x, push, noise = (normal(generator) for _ in range(3))
    output = normal(generator, channels=6)
    table = tables(INDICES)
    ours, ours_x0 = ddpm_step(x, read_denoiser(output, x, table), push, noise, table)
    bars = alphas_bar()
    for row, t in enumerate(INDICES):
        xt, g, z, out = (v[row].double().numpy() for v in (x, push, noise, output))
        eps, v = out[:3], out[3:]
        bar, before = bars[t], bars[t - 1] if t else 1.0
        beta = 1 - bar / before
        x0 = np.sqrt(1 / bar) * xt - np.sqrt(1 / bar - 1) * eps
        mean = np.sqrt(before) * beta / (1 - bar) * x0
        mean += np.sqrt(1 - beta) * (1 - before) / (1 - bar) * xt
        # The posterior variance of index 0 is zero; the original takes that of index 1.
        bar_, before_ = (bar, before) if t else (bars[1], bars[0])
        low = np.log((1 - bar_ / before_) * (1 - before_) / (1 - bar_))
        variance = np.exp((v + 1) / 2 * np.log(beta) + (1 - v) / 2 * low)
        expected = mean + variance * g + (t > 0) * np.sqrt(variance) * z
        np.testing.assert_allclose(ours_x0[row].numpy(), x0, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours[row].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_posterior_variance_is_that_of_a_known_image(generator: torch.Generator) -> None:
    x, push, noise = (normal(generator) for _ in range(3))
    table = tables(INDICES)
    denoised = read_denoiser(normal(generator, channels=6), x, table)
    least = with_posterior_variance(denoised, table)
    assert torch.equal(least.x0, denoised.x0) and torch.equal(least.eps, denoised.eps)
    bars = alphas_bar()
    for row, t in enumerate(INDICES):
        bar, before = bars[max(t, 1)], bars[max(t, 1) - 1]
        variance = (1 - bar / before) * (1 - before) / (1 - bar)
        said = least.log_variance[row].double().exp().numpy()
        assert said.shape == (3, 4, 4)
        np.testing.assert_allclose(said, variance, rtol=1e-4)
    step, _ = spherical_step(x, least, push, noise, 0.2, table)
    length = (step - posterior_mean(least.x0, x, table)).flatten(1).norm(dim=1)
    sigma = least.log_variance[:, 0, 0, 0].exp().sqrt()
    torch.testing.assert_close(length[:-1], (48**0.5 * sigma)[:-1])


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_spherical_step_is_the_formula(rate: float, generator: torch.Generator) -> None:
    """Yang et al. 2024, with a deviation that differs from value to value."""
    x, push, noise = (normal(generator) for _ in range(3))
    output, table = normal(generator, channels=6), tables(INDICES)
    denoised = read_denoiser(output, x, table)
    ours, ours_x0 = spherical_step(x, denoised, push, noise, rate, table)
    assert torch.equal(ours_x0, denoised.x0)
    for row, t in enumerate(INDICES):
        mean = posterior_mean(denoised.x0, x, table)[row].double().numpy()
        sigma = np.exp(denoised.log_variance[row].double().numpy() / 2)
        g, e = push[row].double().numpy(), noise[row].double().numpy()
        r = np.sqrt(g.size) * np.sqrt((sigma**2).mean())
        way = sigma * e + rate * (r * g / np.sqrt((g**2).sum()) - sigma * e)
        expected = mean + (t > 0) * r * way / np.sqrt((way**2).sum())
        np.testing.assert_allclose(ours[row].numpy(), expected, rtol=1e-4, atol=1e-5)
        length = np.sqrt(((ours[row].double().numpy() - mean) ** 2).sum())
        assert length == pytest.approx(r if t else 0, rel=1e-4)


def test_at_rate_0_a_spherical_step_goes_the_way_of_the_noise(generator: torch.Generator) -> None:
    x, push, noise = (normal(generator) for _ in range(3))
    table = tables(INDICES)
    denoised = read_denoiser(normal(generator, channels=6), x, table)
    mean = posterior_mean(denoised.x0, x, table)
    plain = ddpm_step(x, denoised, torch.zeros_like(x), noise, table)[0] - mean
    ours = spherical_step(x, denoised, push, noise, 0.0, table)[0] - mean
    cosines = torch.cosine_similarity(plain[:-1].flatten(1), ours[:-1].flatten(1))
    torch.testing.assert_close(cosines, torch.ones(len(INDICES) - 1))


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_a_spherical_step_without_a_push_is_the_priors_own(
    rate: float, generator: torch.Generator
) -> None:
    x, push, noise = (normal(generator) for _ in range(3))
    push[::2] = 0
    noise[0] = 0  # as in a free slot
    table = tables(INDICES)
    denoised = read_denoiser(normal(generator, channels=6), x, table)
    ours, _ = spherical_step(x, denoised, push, noise, rate, table)
    plain, _ = ddpm_step(x, denoised, torch.zeros_like(x), noise, table)
    assert ours.isfinite().all() and torch.equal(ours[::2], plain[::2])
    assert not torch.equal(ours[1], plain[1])


def test_the_length_of_a_push_changes_no_spherical_step(generator: torch.Generator) -> None:
    x, push, noise = (normal(generator) for _ in range(3))
    table = tables(INDICES)
    denoised = read_denoiser(normal(generator, channels=6), x, table)
    once, many = (
        spherical_step(x, denoised, times * push, noise, 0.2, table)[0] for times in (1, 1024)
    )
    assert torch.equal(once, many)


def test_a_push_that_is_not_finite_is_not_hidden(generator: torch.Generator) -> None:
    x, push, noise = (normal(generator) for _ in range(3))
    push[0, 0, 0, 0], push[1, 0, 0, 0] = float("nan"), float("inf")
    table = tables([24, 24, 24, 24])
    denoised = read_denoiser(normal(generator, channels=6), x, table)
    ours, _ = spherical_step(x, denoised, push, noise, 0.2, table)
    assert ours.isfinite().flatten(1).all(dim=1).tolist() == [False, False, True, True]


def test_rows_of_a_spherical_step_are_the_same_alone(generator: torch.Generator) -> None:
    x, push, noise = (torch.randn(4, 3, 64, 64, generator=generator) for _ in range(3))
    table = tables(INDICES)
    denoised = read_denoiser(torch.randn(4, 6, 64, 64, generator=generator), x, table)
    together, _ = spherical_step(x, denoised, push, noise, 0.2, table)
    for row in range(4):
        # A table has one shape; the other rows are free slots.
        others = torch.arange(4)[:, None, None, None] != row
        push_, noise_ = (v.masked_fill(others, 0.0) for v in (push, noise))
        alone, _ = spherical_step(x, denoised, push_, noise_, 0.2, table)
        assert torch.equal(alone[row], together[row])


def test_ddim_step_is_the_formula(generator: torch.Generator) -> None:
    x, push, eps = (normal(generator) for _ in range(3))
    table = tables(INDICES)
    denoised = read_denoiser(torch.cat([eps, eps], dim=1), x, table)
    ours, ours_x0 = ddim_step(x, denoised, push, table)
    again, _ = ddim_step(x, denoised, push, table)
    assert torch.equal(ours, again)
    bars = alphas_bar()
    for row, t in enumerate(INDICES):
        xt, g, e = (v[row].double().numpy() for v in (x, push, eps))
        bar, before = bars[t], bars[t - 1] if t else 1.0
        shifted = e - np.sqrt(1 - bar) * g
        x0 = (xt - np.sqrt(1 - bar) * shifted) / np.sqrt(bar)
        expected = np.sqrt(before) * x0 + np.sqrt(1 - before) * shifted
        np.testing.assert_allclose(ours_x0[row].numpy(), x0, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours[row].numpy(), expected, rtol=1e-4, atol=1e-3)


def test_ddim_with_the_true_noise_stays_on_the_line_to_the_image(
    generator: torch.Generator,
) -> None:
    image, noise = normal(generator, 1), normal(generator, 1)
    x = add_noise(image, noise, tables([COUNT - 1]))
    for t in range(COUNT - 1, -1, -1):
        table = tables([t])
        denoised = read_denoiser(torch.cat([noise, noise], dim=1), x, table)
        x, x0 = ddim_step(x, denoised, torch.zeros_like(x), table)
        torch.testing.assert_close(x0, image, atol=1e-2, rtol=0)
    torch.testing.assert_close(x, image, atol=1e-2, rtol=0)


def test_a_push_moves_the_mean_its_own_way_by_the_variance(generator: torch.Generator) -> None:
    x, noise, push = (normal(generator) for _ in range(3))
    table = tables(INDICES)
    log_variance = torch.full_like(x, -3.0)
    denoised = Denoised(eps=x, x0=x, log_variance=log_variance)
    pushed, _ = ddpm_step(x, denoised, push, noise, table)
    plain, _ = ddpm_step(x, denoised, torch.zeros_like(x), noise, table)
    torch.testing.assert_close(pushed - plain, np.exp(-3.0) * push, atol=1e-5, rtol=1e-4)


def test_the_last_step_adds_no_noise(generator: torch.Generator) -> None:
    x, noise = normal(generator, 2), normal(generator, 2)
    table = tables([0, 1])
    denoised = read_denoiser(normal(generator, 2, 6), x, table)
    quiet, _ = ddpm_step(x, denoised, torch.zeros_like(x), torch.zeros_like(x), table)
    noisy, _ = ddpm_step(x, denoised, torch.zeros_like(x), noise, table)
    assert torch.equal(quiet[0], noisy[0])
    assert not torch.isclose(quiet[1], noisy[1]).any()


def test_the_posterior_mean_of_a_chain_that_is_the_image(generator: torch.Generator) -> None:
    # Where x_t = sqrt(abar_t) x0, without noise, the mean below is sqrt(abar_{t-1}) x0.
    x0 = normal(generator)
    bars = torch.from_numpy(alphas_bar()).float()
    shape = (-1, 1, 1, 1)
    at = bars[INDICES].sqrt().reshape(shape)
    below = torch.cat([bars.new_ones(1), bars])[INDICES].sqrt().reshape(shape)
    torch.testing.assert_close(posterior_mean(x0, at * x0, tables(INDICES)), below * x0)


def test_the_variance_lies_between_its_bounds(generator: torch.Generator) -> None:
    x = normal(generator)
    table = tables(INDICES)

    def log_variance(v: float) -> Tensor:
        output = torch.cat([x, torch.full_like(x, v)], dim=1)
        return read_denoiser(output, x, table).log_variance[:, 0, 0, 0].double()

    bars = alphas_bar()
    beta = 1 - bars / np.append(1.0, bars[:-1])
    np.testing.assert_allclose(log_variance(1.0), np.log(beta[INDICES]), rtol=1e-4)
    assert (log_variance(-1.0)[:-1] < log_variance(1.0)[:-1]).all()
    torch.testing.assert_close(log_variance(0.0), (log_variance(-1.0) + log_variance(1.0)) / 2)


@pytest.mark.parametrize("index", [24, 13, 1])
def test_going_back_keeps_unit_variance(index: int, generator: torch.Generator) -> None:
    x, noise = torch.randn(2, 1, 1, 400, 500, generator=generator)
    table = tables([index])
    back = go_back(x, noise, table)
    # 200 000 numbers: the variance is known to about 0.3 %, the mean to 0.0022.
    assert float(back.var()) == pytest.approx(1, abs=0.015)
    assert abs(float(back.mean())) < 0.01
    bars = alphas_bar()
    beta = 1 - bars[index - 1] / (bars[index - 2] if index > 1 else 1.0)
    covariance = float((x * back).mean())
    assert covariance == pytest.approx(np.sqrt(1 - beta), abs=0.01)


def test_going_back_from_the_last_index_does_nothing(generator: torch.Generator) -> None:
    x, noise = normal(generator, 1), normal(generator, 1)
    assert torch.equal(go_back(x, noise, tables([0])), x)


def test_the_network_is_fed_original_times() -> None:
    assert tables([0, 24]).time.tolist() == [0.0, 999.0]
    assert tables([0, 24]).last.flatten().tolist() == [True, False]


def test_rows_of_a_table_are_those_of_single_indices() -> None:
    together = tables(INDICES)
    for row, index in enumerate(INDICES):
        single = tables([index])
        for field in dataclasses.fields(StepTable):
            value = getattr(together, field.name)
            assert torch.equal(value[row : row + 1], getattr(single, field.name)), field.name


@pytest.mark.parametrize("sigma_small", [True, False])
def test_a_prior_that_learned_no_variance_has_a_fixed_one(
    sigma_small: bool, generator: torch.Generator
) -> None:
    """Ho et al. 2020, algorithm 2, with sigma^2 = beta or that of the posterior."""
    x, push, noise, eps = (normal(generator) for _ in range(4))
    schedule = Schedule.respaced(RESPACING, NoiseSchedule(sigma_small=sigma_small))
    table = ChainTables(schedule).at(torch.tensor(INDICES))
    said = read_denoiser(eps, x, table)
    assert torch.equal(said.eps, eps) and said.log_variance.shape == x.shape
    ours, ours_x0 = ddpm_step(x, said, push, noise, table)
    bars = alphas_bar()
    for row, t in enumerate(INDICES):
        if not t:
            continue  # nothing of its variance reaches the image
        xt, g, z, e = (v[row].double().numpy() for v in (x, push, noise, eps))
        bar, before = bars[t], bars[t - 1]
        beta = 1 - bar / before
        sigma2 = beta * (1 - before) / (1 - bar) if sigma_small else beta
        mean = (xt - beta / np.sqrt(1 - bar) * e) / np.sqrt(1 - beta)
        expected = mean + sigma2 * g + np.sqrt(sigma2) * z
        np.testing.assert_allclose(ours[row].numpy(), expected, rtol=1e-4, atol=1e-4)
        x0 = (xt - np.sqrt(1 - bar) * e) / np.sqrt(bar)
        np.testing.assert_allclose(ours_x0[row].numpy(), x0, rtol=1e-4, atol=1e-4)
    assert ours.isfinite().all()


def test_the_network_is_fed_rescaled_times_where_it_was_trained_with_them() -> None:
    for rescale, last in ((True, 999.75), (False, 3999.0)):
        noise = NoiseSchedule(steps=4000, rescale_timesteps=rescale)
        table = ChainTables(Schedule.respaced(RESPACING, noise)).at(torch.tensor([0, 24]))
        assert table.time.tolist() == [0.0, last]
