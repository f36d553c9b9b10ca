"""Respacing and the tables, against known numbers and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstc_engine.errors import PresetError
from dstc_engine.schedule import Schedule, linear_betas, respaced_times


def test_ddpm_noises_a_picture_almost_wholly() -> None:
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
