"""Respacing and the tables, against known numbers and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc_engine.diffusion.schedule import (
    LINEAR_1000,
    NoiseSchedule,
    Schedule,
    cosine_betas,
    linear_betas,
    read_respacing,
    respaced_times,
)
from dstc_engine.errors import PresetError, WeightsError


def test_ddpm_noises_a_image_almost_wholly() -> None:
    betas = linear_betas()
    assert (betas[0], betas[-1]) == (1e-4, 0.02)
    # exp of the summed logs; the number Ho et al. give as about 4e-5.
    assert Schedule.respaced("1000").alphas_cumprod[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert linear_betas(500)[[0, -1]].tolist() == pytest.approx([2e-4, 0.04])


@given(st.integers(2, 1000))
@settings(deadline=None, derandomize=True, database=None, max_examples=40)
def test_one_section_reaches_from_end_to_end_at_even_strides(count: int) -> None:
    times = respaced_times(str(count))
    assert len(times) == count and (times[0], times[-1]) == (0, 999)
    strides = np.diff(times)
    assert strides.min() >= math.floor(999 / (count - 1))
    assert strides.max() <= math.ceil(999 / (count - 1))


def test_known_respacings() -> None:
    assert respaced_times("ddim4") == [0, 250, 500, 750]
    assert respaced_times("ddim50") == list(range(0, 1000, 20))
    assert respaced_times("1000") == list(range(1000))
    assert respaced_times("3,2,1", 12) == [0, 2, 3, 4, 7, 8]
    assert respaced_times("2,2,2", 10) == [0, 3, 4, 6, 7, 9]
    assert respaced_times("1") == [0]


@pytest.mark.parametrize("text", ["", "ten", "0", "-5", "1.5", "10,", "ddim", "ddimx", "²"])
def test_texts_that_are_no_respacing(text: str) -> None:
    with pytest.raises(PresetError, match="expected 'N', 'a,b,c' or 'ddimN', N above 0"):
        respaced_times(text)


def test_more_steps_than_there_are() -> None:
    with pytest.raises(PresetError, match="section 1 holds 500 of 1000 steps, fewer than the 501"):
        respaced_times("10,501")
    with pytest.raises(PresetError, match="no integer stride over 1000 gives 300 steps"):
        respaced_times("ddim300")


def test_first_index() -> None:
    schedule = Schedule.respaced("100")
    assert len(schedule) == 100
    assert schedule.first_index(40) == 59
    assert schedule.first_index(0) == 99 and schedule.first_index(99) == 0
    for skip in (-1, 100, 1000):
        with pytest.raises(PresetError, match=f"skip is {skip}; expected 0-99 for 100 steps"):
            schedule.first_index(skip)


@pytest.mark.parametrize("respacing", ["1", "2", "50", "10,20,30", "ddim25"])
def test_a_respaced_chain_noises_as_the_whole_one_does(respacing: str) -> None:
    whole, schedule = Schedule.respaced("1000"), Schedule.respaced(respacing)
    kept = whole.alphas_cumprod[schedule.times]
    np.testing.assert_allclose(np.cumprod(1 - schedule.betas), kept, rtol=1e-12)
    np.testing.assert_allclose(schedule.alphas_cumprod_prev[1:], kept[:-1])
    assert schedule.alphas_cumprod_prev[0] == 1
    assert (schedule.posterior_mean_coef1[0], schedule.posterior_mean_coef2[0]) == (1, 0)


def test_the_posterior_is_bayes_rule() -> None:
    # q(x_{t-1} | x_t, x0) from the product of two normal densities, in precisions.
    schedule = Schedule.respaced("20")
    bars = schedule.alphas_cumprod
    for t in range(1, 20):
        alpha, before = bars[t] / bars[t - 1], bars[t - 1]
        precision = alpha / (1 - alpha) + 1 / (1 - before)
        assert math.exp(schedule.posterior_log_variance[t]) == pytest.approx(1 / precision)
        from_x0 = math.sqrt(before) / (1 - before) / precision
        from_xt = math.sqrt(alpha) / (1 - alpha) / precision
        assert schedule.posterior_mean_coef1[t] == pytest.approx(from_x0)
        assert schedule.posterior_mean_coef2[t] == pytest.approx(from_xt)
    assert schedule.posterior_log_variance[0] == schedule.posterior_log_variance[1]


@pytest.mark.parametrize("steps", [100, 1000, 4000])
def test_cosine_betas_follow_the_published_curve(steps: int) -> None:
    """Nichol & Dhariwal 2021 eq. 17: abar = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) pi/2)."""
    betas = cosine_betas(steps)
    assert betas.shape == (steps,) and betas.max() <= 0.999 and betas.min() > 0
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    free = betas < 0.999
    np.testing.assert_allclose(np.cumprod(1 - betas)[free], (f[1:] / f[0])[free], rtol=1e-9)
    # Only the end, where f is zero, is cut: there the whole image would be gone in one step.
    assert not free[-1] and free[: steps - max(1, steps // 100)].all()


def test_cosine_noises_later_than_linear() -> None:
    cosine, linear = (
        Schedule.respaced("1000", NoiseSchedule(kind=kind)).alphas_cumprod
        for kind in ("cosine", "linear")
    )
    assert (cosine[50:950] > linear[50:950]).all()
    assert cosine[500] == pytest.approx(0.49, abs=0.01) and linear[500] < 0.08


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_more_steps_noise_a_image_as_far_in_smaller_ones(kind: str) -> None:
    coarse, fine = (NoiseSchedule(kind=kind, steps=steps) for steps in (1000, 4000))
    few, many = (Schedule.respaced("50", noise) for noise in (coarse, fine))
    assert many.times[-1] == 3999 and few.times[-1] == 999
    # 1 000 and 4 000 steps sample one curve, at times that differ by less than a step.
    np.testing.assert_allclose(np.sqrt(many.alphas_cumprod), np.sqrt(few.alphas_cumprod), atol=3e-3)
    assert fine.betas().max() <= 0.999 and len(fine.betas()) == 4000


def test_times_are_rescaled_for_the_network_where_asked_for() -> None:
    assert Schedule.respaced("10", NoiseSchedule(steps=4000)).time_scale == 1
    rescaled = NoiseSchedule(steps=4000, rescale_timesteps=True)
    assert Schedule.respaced("10", rescaled).time_scale == 0.25
    assert Schedule.respaced("10", NoiseSchedule(rescale_timesteps=True)).time_scale == 1


@pytest.mark.parametrize("respacing", ["25", "1000", "1"])
def test_fixed_variances(respacing: str) -> None:
    """Ho et al. 2020, section 3.2: beta, or that of the posterior."""
    small = Schedule.respaced(respacing, NoiseSchedule(sigma_small=True))
    large = Schedule.respaced(respacing)
    np.testing.assert_array_equal(small.fixed_log_variance, small.posterior_log_variance)
    np.testing.assert_allclose(np.exp(large.fixed_log_variance[1:]), large.betas[1:])
    # The first variance of the posterior is zero; both take its second.
    assert large.fixed_log_variance[0] == small.fixed_log_variance[0]
    assert (large.fixed_log_variance >= small.fixed_log_variance).all()


def test_the_schedule_of_a_checkpoints_flags() -> None:
    assert NoiseSchedule.from_flags({}) == LINEAR_1000 == NoiseSchedule()
    flags = {
        "noise_schedule": "cosine",
        "diffusion_steps": "4000",
        "rescale_timesteps": "True",
        "sigma_small": True,
    }
    assert NoiseSchedule.from_flags(flags) == NoiseSchedule(
        kind="cosine", steps=4000, rescale_timesteps=True, sigma_small=True
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"noise_schedule": "sqrt"}, "noise schedule is 'sqrt'; expected linear or cosine"),
        ({"diffusion_steps": 0}, "noise schedule has 0 steps; expected 1 or more"),
        ({"diffusion_steps": "1e3"}, "flag diffusion_steps is '1e3'; expected a whole number"),
        ({"diffusion_step": 4000}, "did you mean diffusion_steps"),
    ],
)
def test_schedules_that_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        NoiseSchedule.from_flags(flags)


def test_respacings_are_read() -> None:
    assert read_respacing("ddim25") == (True, [25])
    assert read_respacing("10, 20,30") == (False, [10, 20, 30])
