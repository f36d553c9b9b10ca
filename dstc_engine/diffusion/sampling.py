"""Sampling steps: denoiser output, posterior, DDPM and DDIM steps, resampling.

S rows (slots), each at its own index of one schedule. Guidance enters as `push`, the negative
gradient of a row's total loss with respect to x_t; without it these are the unguided steps of ADM.
Equations: method section 1 (Ho et al. 2020 eq. 7; Nichol & Dhariwal 2021 eq. 15; Dhariwal & Nichol
2021 algorithms 1 and 2).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dstc_engine.diffusion.schedule import Schedule, Table


class ChainTables:
    """A schedule's tables on a device, in float32, gathered for a batch of indices.

    The square roots are taken in float64 before the cast, as the original does.
    """

    def __init__(self, schedule: Schedule, device: torch.device | str = "cpu") -> None:
        abar, abar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
        beta_before = np.append(0.0, schedule.betas[:-1])

        def table(values: Table) -> Tensor:
            return torch.from_numpy(values).to(device=device, dtype=torch.float32)

        self.times = table(schedule.times.astype(np.float64)) * schedule.time_scale
        self._columns = {
            "signal": table(np.sqrt(abar)),
            "noise": table(np.sqrt(1.0 - abar)),
            "inverse_signal": table(np.sqrt(1.0 / abar)),
            "inverse_noise": table(np.sqrt(1.0 / abar - 1.0)),
            "signal_prev": table(np.sqrt(abar_prev)),
            "noise_prev": table(np.sqrt(1.0 - abar_prev)),
            "x0_weight": table(schedule.posterior_mean_coef1),
            "xt_weight": table(schedule.posterior_mean_coef2),
            "log_variance_low": table(schedule.posterior_log_variance),
            "log_variance_high": table(np.log(schedule.betas)),
            "log_variance_fixed": table(schedule.fixed_log_variance),
            "back_signal": table(np.sqrt(1.0 - beta_before)),
            "back_noise": table(np.sqrt(beta_before)),
        }

    def at(self, index: Tensor) -> StepTable:
        """The tables' values at each row's index, (S,) int64 to fields of (S, 1, 1, 1)."""
        columns = {name: t[index][:, None, None, None] for name, t in self._columns.items()}
        return StepTable(time=self.times[index], last=(index == 0)[:, None, None, None], **columns)


@dataclass(frozen=True, eq=False)
class StepTable:
    """Schedule values of one step, one per row; (S, 1, 1, 1) float32 but for `time`, (S,).

    Attributes:
        time: what the network is fed, the original time but for `rescale_timesteps`.
        last: bool, the row is at index 0.
        signal, noise: sqrt(abar), sqrt(1 - abar); `_prev` those of the index below.
        inverse_signal, inverse_noise: sqrt(1 / abar), sqrt(1 / abar - 1).
        x0_weight, xt_weight: of the posterior mean.
        log_variance_low, log_variance_high: the bounds that v interpolates between.
        log_variance_fixed: where there is no v.
        back_signal, back_noise: sqrt(1 - beta), sqrt(beta) of the index below, for going back.
    """

    time: Tensor
    last: Tensor
    signal: Tensor
    noise: Tensor
    inverse_signal: Tensor
    inverse_noise: Tensor
    signal_prev: Tensor
    noise_prev: Tensor
    x0_weight: Tensor
    xt_weight: Tensor
    log_variance_low: Tensor
    log_variance_high: Tensor
    log_variance_fixed: Tensor
    back_signal: Tensor
    back_noise: Tensor

    def rows(self, index: Tensor | slice) -> StepTable:
        """The values of some rows."""
        fields = dataclasses.fields(self)
        return StepTable(**{field.name: getattr(self, field.name)[index] for field in fields})


@dataclass(frozen=True, eq=False)
class Denoised:
    """Output of the denoiser at x_t; each (S, 3, H, W).

    Attributes:
        eps: predicted noise. x0: the clean image it implies, not clipped.
        log_variance: of the reverse step, learned or fixed.
    """

    eps: Tensor
    x0: Tensor
    log_variance: Tensor


def read_denoiser(output: Tensor, x: Tensor, table: StepTable) -> Denoised:
    """Noise, x0 and log variance from the network's output.

    Args:
        output: (S, 6, H, W), noise and v; or (S, 3, H, W), noise alone, of a prior whose variance
            is fixed (Ho et al. 2020, section 3.2).
    """
    output = output.float()
    if output.shape[1] == x.shape[1]:
        eps, log_variance = output, table.log_variance_fixed.expand_as(x)
    else:
        eps, v = output.chunk(2, dim=1)
        share = (v + 1) / 2
        log_variance = share * table.log_variance_high + (1 - share) * table.log_variance_low
    return Denoised(
        eps=eps,
        x0=table.inverse_signal * x - table.inverse_noise * eps,
        log_variance=log_variance,
    )


def posterior_mean(x0: Tensor, x: Tensor, table: StepTable) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x0)."""
    return table.x0_weight * x0 + table.xt_weight * x


def with_posterior_variance(denoised: Denoised, table: StepTable) -> Denoised:
    """The same, with the variance of x_{t-1} given x_t and x0, the least that a step may have.

    A learned variance also holds what the prior is not sure of in x0. In a chain of few steps that
    is a lot of noise, and what a small prior does not take away again stays as mottles in flat
    areas (docs/evaluation.md).
    """
    variance = table.log_variance_low.expand_as(denoised.log_variance)
    return dataclasses.replace(denoised, log_variance=variance)


def ddpm_step(
    x: Tensor, denoised: Denoised, push: Tensor, noise: Tensor, table: StepTable
) -> tuple[Tensor, Tensor]:
    """One guided ancestral step; guidance is scaled by the variance.

    Returns:
        x_{t-1} and the x0 estimate, both (S, 3, H, W). At index 0 no noise is added.
    """
    mean = posterior_mean(denoised.x0, x, table) + denoised.log_variance.exp() * push
    spread = (0.5 * denoised.log_variance).exp() * noise
    return torch.where(table.last, mean, mean + spread), denoised.x0


def spherical_step(
    x: Tensor, denoised: Denoised, push: Tensor, noise: Tensor, rate: float, table: StepTable
) -> tuple[Tensor, Tensor]:
    """One guided ancestral step as long as its noise is; the push gives a direction alone.

    Yang et al. 2024, "Guidance with Spherical Gaussian Constraint for Conditional Diffusion" (arXiv
    2402.03201). Of n values with mean mu and deviation sigma nearly all of the prior's x_{t-1} lie
    at a distance of r = sqrt(n) rms(sigma) from mu, and that is where the step ends.

        >>> near, _ = spherical_step(x, denoised, push, noise, 0.2, table)

    Args:
        push: (S, 3, H, W); of its length nothing depends. A row whose push is 0 takes the step of
            `ddpm_step`, which is the prior's own.
        rate: 0 .. 1, of the way from the noise's direction to the push's.

    Returns:
        x_{t-1} and the x0 estimate, both (S, 3, H, W). At index 0 x_{t-1} is mu.
    """
    mean = posterior_mean(denoised.x0, x, table)
    sigma = (0.5 * denoised.log_variance).exp()
    # sqrt(n) rms(sigma): the learned variance differs from value to value.
    radius, length = _norm(sigma), _norm(push)
    drawn = sigma * noise
    wanted = drawn + rate * (radius * (push / length) - drawn)
    # What is not finite in a push is not 0 and stays: the row fails, as with `ddpm_step`.
    spread = torch.where(length == 0, drawn, radius * (wanted / _norm(wanted)))
    return torch.where(table.last, mean, mean + spread), denoised.x0


def _norm(values: Tensor) -> Tensor:
    """Of each row, (S, 3, H, W) to (S, 1, 1, 1)."""
    return torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True, dtype=torch.float32)


def ddim_step(
    x: Tensor, denoised: Denoised, push: Tensor, table: StepTable
) -> tuple[Tensor, Tensor]:
    """One guided deterministic step (eta = 0); guidance shifts the predicted noise.

    Returns:
        x_{t-1} and the x0 estimate recomputed from the shifted noise, both (S, 3, H, W).
    """
    eps = denoised.eps - table.noise * push
    x0 = table.inverse_signal * x - table.inverse_noise * eps
    # The original recomputes the noise from x0, which rounds differently from `eps` itself.
    eps = (table.inverse_signal * x - x0) / table.inverse_noise
    return table.signal_prev * x0 + table.noise_prev * eps, x0


def go_back(x: Tensor, noise: Tensor, table: StepTable) -> Tensor:
    """From x_{t-1} to x_t again (resampling): one forward step with the beta of the index below."""
    return table.back_signal * x + table.back_noise * noise


def add_noise(x0: Tensor, noise: Tensor, table: StepTable) -> Tensor:
    """q(x_t | x0)."""
    return table.signal * x0 + table.noise * noise
