"""Betas, respacing, and which steps of a chain are run (method sections 1 and 2).

Two counts of time appear everywhere: the *original time* that the prior was trained with, mostly
0 .. 999, and the *index* 0 .. S-1 into the respaced schedule that all tables here use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dstc_engine.diffusion.adm_flags import Flags
from dstc_engine.errors import PresetError, WeightsError

Table = npt.NDArray[np.float64]
ORIGINAL_STEPS = 1000
RESPACING_FORM = "'N', 'a,b,c' or 'ddimN', N above 0"


def linear_betas(steps: int = ORIGINAL_STEPS) -> Table:
    """DDPM's linear schedule, 1e-4 .. 0.02 for 1000 steps, scaled to others; float64 (steps,)."""
    scale = 1000 / steps
    return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)


def cosine_betas(steps: int = ORIGINAL_STEPS) -> Table:
    """Nichol & Dhariwal 2021 eq. 17, cut at 0.999 as they do; float64 (steps,)."""

    def signal(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    steps_to = [1 - signal((t + 1) / steps) / signal(t / steps) for t in range(steps)]
    return np.minimum(np.array(steps_to, dtype=np.float64), 0.999)


_BETAS = {"linear": linear_betas, "cosine": cosine_betas}


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Noise schedule that a prior was trained with, and how its network is given the time.

    Attributes:
        kind: "linear" or "cosine". steps: original times, 0 .. steps - 1.
        rescale_timesteps: the network is fed time * 1000 / steps.
        sigma_small: for a network without `learn_sigma`, whose variance is fixed: the posterior's;
            else beta. Both are in the range that learned ones interpolate.

    Raises:
        WeightsError: another kind, or no step.
    """

    kind: str = "linear"
    steps: int = ORIGINAL_STEPS
    rescale_timesteps: bool = False
    sigma_small: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _BETAS:
            raise WeightsError(f"noise schedule is {self.kind!r}; expected {' or '.join(_BETAS)}")
        if self.steps < 1:
            raise WeightsError(f"noise schedule has {self.steps} steps; expected 1 or more")

    @classmethod
    def from_flags(cls, flags: Mapping[str, object]) -> NoiseSchedule:
        """From the flags of a checkpoint, see `UNetConfig.from_flags`.

        Raises:
            WeightsError: a flag is misspelt, of another kind, or names another schedule.
        """
        read = Flags(flags)
        return cls(
            kind=read.text("noise_schedule", "linear"),
            steps=read.integer("diffusion_steps", ORIGINAL_STEPS),
            rescale_timesteps=read.switch("rescale_timesteps", False),
            sigma_small=read.switch("sigma_small", False),
        )

    def betas(self) -> Table:
        """Beta of each original time; float64 (steps,)."""
        return _BETAS[self.kind](self.steps)


# What all published ImageNet and FFHQ priors but the 64-px one were trained with.
LINEAR_1000 = NoiseSchedule()


def respaced_times(respacing: str, steps: int = ORIGINAL_STEPS) -> list[int]:
    """The original times that a respaced schedule keeps, ascending.

    Args:
        respacing: "N" keeps N times at equal rounded strides, "a,b,c" does so in each of equal
            sections, "ddimN" takes every k-th time for the integer k that gives N of them.
        steps: length of the original schedule.

    Raises:
        PresetError: the text has another form, or asks for more times than there are.
    """
    is_stride, counts = read_respacing(respacing)
    if is_stride:
        for stride in range(1, steps):
            if len(range(0, steps, stride)) == counts[0]:
                return list(range(0, steps, stride))
        raise PresetError(
            f"respacing {respacing!r}: no integer stride over {steps} gives {counts[0]} steps"
        )
    times: list[int] = []
    start = 0
    for section, wanted in enumerate(counts):
        size = steps // len(counts) + (1 if section < steps % len(counts) else 0)
        if wanted > size:
            raise PresetError(
                f"respacing {respacing!r}: section {section} holds {size} of {steps} steps, "
                f"fewer than the {wanted} asked for"
            )
        gap = 1.0 if wanted == 1 else (size - 1) / (wanted - 1)
        # Adding the stride up, as the original does, rounds differently from multiplying it.
        position = 0.0
        for _ in range(wanted):
            times.append(start + round(position))
            position += gap
        start += size
    return times


def read_respacing(respacing: str) -> tuple[bool, list[int]]:
    """Whether a respacing is one integer stride ("ddimN"), and the counts of its sections.

    Raises:
        PresetError: the text has another form.
    """
    is_stride = respacing.startswith("ddim")
    parts = [respacing[4:]] if is_stride else respacing.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise PresetError(f"respacing {respacing!r}: expected {RESPACING_FORM}")
    return is_stride, [int(part) for part in parts]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Tables over the index of a respaced schedule, each float64 (S,).

    Attributes:
        times: int64 (S,), the original time of each index.
        betas, alphas_cumprod, alphas_cumprod_prev: of the respaced chain.
        posterior_mean_coef1, posterior_mean_coef2: of x0 and of x_t in the posterior mean.
        posterior_log_variance: log of the posterior variance, its first entry (which is 0) replaced
            by the second.
        fixed_log_variance: of a prior that learned none: that, or log beta behind its first entry.
        time_scale: from original time to what the network is fed.
    """

    times: npt.NDArray[np.int64]
    betas: Table
    alphas_cumprod: Table
    alphas_cumprod_prev: Table
    posterior_mean_coef1: Table
    posterior_mean_coef2: Table
    posterior_log_variance: Table
    fixed_log_variance: Table
    time_scale: float

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def respaced(cls, respacing: str, noise: NoiseSchedule = LINEAR_1000) -> Schedule:
        """The schedule that runs the times of `respaced_times` alone.

        Args:
            respacing: see `respaced_times`. noise: what the prior was trained with.

        Raises:
            PresetError: see `respaced_times`.
        """
        times = np.array(respaced_times(respacing, noise.steps), dtype=np.int64)
        abar = np.cumprod(1.0 - noise.betas(), dtype=np.float64)[times]
        abar_prev = np.append(1.0, abar[:-1])
        betas = 1.0 - abar / abar_prev
        variance = betas * (1.0 - abar_prev) / (1.0 - abar)
        clipped = np.append(variance[1], variance[1:]) if len(variance) > 1 else betas
        fixed = clipped if noise.sigma_small else np.append(clipped[0], betas[1:])
        return cls(
            times=times,
            betas=betas,
            alphas_cumprod=abar,
            alphas_cumprod_prev=abar_prev,
            posterior_mean_coef1=betas * np.sqrt(abar_prev) / (1.0 - abar),
            posterior_mean_coef2=(1.0 - abar_prev) * np.sqrt(1.0 - betas) / (1.0 - abar),
            posterior_log_variance=np.log(clipped),
            fixed_log_variance=np.log(fixed),
            time_scale=1000 / noise.steps if noise.rescale_timesteps else 1.0,
        )

    def first_index(self, skip: int) -> int:
        """The index a chain starts at when the `skip` noisiest steps are left out.

        Raises:
            PresetError: nothing would be left to run.
        """
        if not 0 <= skip < len(self):
            raise PresetError(f"skip is {skip}; expected 0-{len(self) - 1} for {len(self)} steps")
        return len(self) - skip - 1
