"""Betas, respacing, and which steps of a chain are run (method sections 1 and 2).

Two counts of time appear everywhere: the *original time* 0 .. 999 that the network is fed, and the
*index* 0 .. S-1 into the respaced schedule that all tables here use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dstc_engine.errors import PresetError

Table = npt.NDArray[np.float64]
ORIGINAL_STEPS = 1000


def linear_betas(steps: int = ORIGINAL_STEPS) -> Table:
    """DDPM's linear schedule, 1e-4 .. 0.02 for 1000 steps, scaled to others; float64 (steps,)."""
    scale = 1000 / steps
    return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """The schedule that a prior was trained with.

    Attributes:
        kind: "linear". steps: original times, 0 .. steps - 1.
    """

    kind: str = "linear"
    steps: int = ORIGINAL_STEPS


def respaced_times(respacing: str, steps: int = ORIGINAL_STEPS) -> list[int]:
    """The original times that a respaced schedule keeps, ascending.

    Args:
        respacing: "N" keeps N times at equal rounded strides, "a,b,c" does so in each of equal
            sections, "ddimN" takes every k-th time for the integer k that gives N of them.
        steps: length of the original schedule.

    Raises:
        PresetError: the text has another form, or asks for more times than there are.
    """
    if respacing.startswith("ddim"):
        count = _count(respacing[4:], respacing)
        for stride in range(1, steps):
            if len(range(0, steps, stride)) == count:
                return list(range(0, steps, stride))
        raise PresetError(
            f"respacing {respacing!r}: no integer stride over {steps} gives {count} steps"
        )
    counts = [_count(part, respacing) for part in respacing.split(",")]
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


def _count(text: str, respacing: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise PresetError(f"respacing {respacing!r}: expected 'N', 'a,b,c' or 'ddimN', N above 0")
    return int(text)


@dataclass(frozen=True, eq=False)
class Schedule:
    """Tables over the index of a respaced schedule, each float64 (S,).

    Attributes:
        times: int64 (S,), the original time of each index.
        betas, alphas_cumprod, alphas_cumprod_prev: of the respaced chain.
        posterior_mean_coef1, posterior_mean_coef2: of x0 and of x_t in the posterior mean.
        posterior_log_variance: log of the posterior variance, its first entry (which is 0) replaced
            by the second.
    """

    times: npt.NDArray[np.int64]
    betas: Table
    alphas_cumprod: Table
    alphas_cumprod_prev: Table
    posterior_mean_coef1: Table
    posterior_mean_coef2: Table
    posterior_log_variance: Table

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def respaced(cls, respacing: str, steps: int = ORIGINAL_STEPS) -> Schedule:
        """The schedule that runs the times of `respaced_times` alone.

        Raises:
            PresetError: see `respaced_times`.
        """
        times = np.array(respaced_times(respacing, steps), dtype=np.int64)
        abar = np.cumprod(1.0 - linear_betas(steps), dtype=np.float64)[times]
        abar_prev = np.append(1.0, abar[:-1])
        betas = 1.0 - abar / abar_prev
        variance = betas * (1.0 - abar_prev) / (1.0 - abar)
        clipped = np.append(variance[1], variance[1:]) if len(variance) > 1 else betas
        return cls(
            times=times,
            betas=betas,
            alphas_cumprod=abar,
            alphas_cumprod_prev=abar_prev,
            posterior_mean_coef1=betas * np.sqrt(abar_prev) / (1.0 - abar),
            posterior_mean_coef2=(1.0 - abar_prev) * np.sqrt(1.0 - betas) / (1.0 - abar),
            posterior_log_variance=np.log(clipped),
        )

    def first_index(self, skip: int) -> int:
        """The index a chain starts at when the `skip` noisiest steps are left out.

        Raises:
            PresetError: nothing would be left to run.
        """
        if not 0 <= skip < len(self):
            raise PresetError(f"skip is {skip}; expected 0-{len(self) - 1} for {len(self)} steps")
        return len(self) - skip - 1
