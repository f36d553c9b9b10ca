"""Trains a prior: the ADM UNet on the noise and on its variance.

The loss is L_simple + L_vlb of Nichol & Dhariwal 2021 ("Improved Denoising Diffusion Probabilistic
Models", eq. 16): the mean squared error of the noise trains the mean, and the variational bound,
seen through a frozen mean, trains the variance alone. `PriorTraining.l1` adds the mean absolute
error.

    dstc train prior --data emoji-64.parquet --out runs/prior
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.diffusion.sampling import (
    ChainTables,
    StepTable,
    add_noise,
    ddpm_step,
    posterior_mean,
    read_denoiser,
)
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.errors import UserError
from dstc_engine.training.images import ImageSet, load_images, load_training
from dstc_engine.training.loop import Recipe, World, fit, shuffled_rows
from dstc_engine.training.settings import TrainingSettings
from dstc_engine.training.sheet import write_sheet

TRAINED_TIMES = 1000

TINY_UNET = UNetConfig(
    image_size=64,
    channels=32,
    multipliers=(1.0, 2.0, 3.0, 4.0),
    res_blocks=2,
    attention_resolutions=(16, 8),
    head_channels=32,
)


@dataclass(frozen=True, kw_only=True)
class PriorTraining(TrainingSettings):
    """How a prior is trained; `TrainingSettings` has the other fields.

    Attributes:
        warmup: steps over which the rate rises to its peak; it falls by a cosine from there.
        low_noise: share of images that are noised to a time below `low_noise_below`, each time
            equally likely; the others to any time. Guidance starts from a noised image and never
            sees the times above its start (tiny64: t = 416), which take more than half of the steps
            when all times are alike. 0 trains for sampling from pure noise, too.
        low_noise_below: first time that these are not noised to.
        l1: weight of the mean absolute error of the noise, beside the squared one, whose is 1.
            Edges decide the squared error; small errors in flat areas, which show as grain, count
            as much here as there. 0 is the paper's loss (docs/train-your-own.md).
        shift: images move by up to this many pixels each way; half of them are flipped.
        every_style: train on the emoji styles beyond `CORE_STYLES`, too; val stays with these.
    """

    steps: int = 6000
    batch: int = 16
    peak_rate: float = 4e-4
    warmup: int = 200
    ema: float = 0.999
    low_noise: float = 0.0
    low_noise_below: int = 600
    l1: float = 0.0
    shift: int = 2
    every_style: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low_noise <= 1:
            raise UserError(f"low_noise is {self.low_noise}; expected a share, 0 to 1")
        if not 1 <= self.low_noise_below <= TRAINED_TIMES:
            raise UserError(
                f"low_noise_below is {self.low_noise_below}; expected a time, 1 to {TRAINED_TIMES}"
            )
        if not 0 <= self.l1 < math.inf:
            raise UserError(f"l1 is {self.l1}; expected a weight, 0 or more")


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Flips half of (B, 3, S, S) images and moves each by up to `shift` pixels, padding white."""
    count, _, size, _ = images.shape
    flips = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flips[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images, (shift,) * 4, value=1.0)
    moves = torch.randint(0, 2 * shift + 1, (count, 2), generator=generator).tolist()
    return torch.stack(
        [p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, moves, strict=True)]
    )


def draw_times(count: int, how: PriorTraining, generator: torch.Generator) -> Tensor:
    """(count,) int64 times to noise images to, 0 .. 999: see `PriorTraining.low_noise`."""
    times = torch.randint(0, TRAINED_TIMES, (count,), generator=generator)
    if how.low_noise == 0:
        return times
    low = torch.randint(0, how.low_noise_below, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < how.low_noise, low, times)


def prior_loss(
    output: Tensor, x0: Tensor, x: Tensor, noise: Tensor, table: StepTable, l1: float = 0.0
) -> Tensor:
    """L_simple + L_vlb per image, (B,): squared error of the noise, and bits per pixel value.

    Args:
        output: (B, 6, H, W) of the UNet. x0, noise: (B, 3, H, W), and x, made of both.
        l1: see `PriorTraining`.
    """
    error = (output[:, :3].float() - noise).flatten(1)
    simple = error.pow(2).mean(1) + l1 * error.abs().mean(1)
    frozen = torch.cat([output[:, :3].detach(), output[:, 3:]], dim=1)
    return simple + variational_bound(frozen, x0, x, table)


def variational_bound(output: Tensor, x0: Tensor, x: Tensor, table: StepTable) -> Tensor:
    """One term of the variational bound in bits per pixel value, (B,) (Ho et al. 2020, eq. 5)."""
    said = read_denoiser(output, x, table)
    mean = posterior_mean(said.x0, x, table)
    true_mean = posterior_mean(x0, x, table)
    gap = said.log_variance - table.log_variance_low
    divergence = 0.5 * (
        gap - 1 + (-gap).exp() + (true_mean - mean).pow(2) * (-said.log_variance).exp()
    )
    likelihood = -_discretised_log_likelihood(x0, mean, 0.5 * said.log_variance)
    terms = torch.where(table.last, likelihood, divergence)
    return terms.flatten(1).mean(1) / math.log(2.0)


def _discretised_log_likelihood(x0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    # Probability of the 1/255-wide bin of each level; the outermost bins reach to infinity.
    normal = torch.distributions.Normal(mean, log_scale.exp())
    above: Tensor = normal.cdf(x0 + 1 / 255)  # type: ignore[no-untyped-call]
    below: Tensor = normal.cdf(x0 - 1 / 255)  # type: ignore[no-untyped-call]
    upper = torch.where(x0 > 0.999, torch.ones_like(above), above)
    lower = torch.where(x0 < -0.999, torch.zeros_like(below), below)
    return (upper - lower).clamp(min=1e-12).log()


@torch.no_grad()
def sample_unguided(unet: UNet, count: int, steps: int = 50, seed: int = 0) -> Tensor:
    """(count, 3, S, S) samples of a prior by DDPM, for sample sheets.

    The x0 estimate is clipped to [-1, 1] at each step, as ADM samples (guided chains do not clip):
    near t = 999 an error of 1 % in the noise is one of 150 % in the image.
    """
    schedule = Schedule.respaced(str(steps))
    device = next(unet.parameters()).device
    tables = ChainTables(schedule, device)
    shape = (count, 3, unet.config.image_size, unet.config.image_size)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(device)
    for index in reversed(range(len(schedule))):
        table = tables.at(torch.full((count,), index, device=device))
        said = read_denoiser(unet(x, table.time), x, table)
        clipped = replace(said, x0=said.x0.clamp(-1, 1))
        noise = torch.randn(shape, generator=generator).to(device)
        x, x0 = ddpm_step(x, clipped, torch.zeros_like(x), noise, table)
    return x0.cpu()


@torch.no_grad()
def denoised_once(unet: UNet, images: Tensor, time: int, seed: int = 0) -> Tensor:
    """What the prior sees in images (B, 3, S, S) that were noised to original time `time`."""
    device = next(unet.parameters()).device
    tables = ChainTables(Schedule.respaced("1000"), device)
    table = tables.at(torch.full((len(images),), time, device=device))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    x = add_noise(images.to(device), noise.to(device), table)
    return read_denoiser(unet(x, table.time), x, table).x0.cpu()


def evaluate(ema: UNet, val: ImageSet, sheet: Path) -> dict[str, float]:
    """Writes a sample sheet; returns the validation errors it shows.

    The sheet: two rows sampled from noise, val images, and those denoised from t = 200, 400, 600.
    """
    rows = torch.linspace(0, len(val) - 1, 12).long()
    images = val.batch(rows)
    # The sheet looks at 12 images; the errors are means over 96, which settles their second
    # digit.
    many = val.batch(torch.linspace(0, len(val) - 1, 96).long())
    samples = sample_unguided(ema, 24)
    views = [denoised_once(ema, images, time) for time in (200, 400, 600)]
    write_sheet(sheet, [samples[:12], samples[12:], images, *views])
    return {
        f"val_x0_mse_t{time}": float(
            (denoised_once(ema, many, time).clamp(-1, 1) - many).pow(2).mean()
        )
        for time in (200, 400, 600)
    }


def train_prior(
    data: str | Path,
    out: str | Path,
    config: UNetConfig | None = None,
    how: PriorTraining | None = None,
    minutes: float = 0,
    world: World | None = None,
    initial: str | None = None,
) -> Path:
    """Trains, or goes on training, a prior; returns the path of its weights.

    Args:
        data: the indexed Parquet. config: sizes, by default `TINY_UNET`. Others as in `fit`.

    Raises:
        UserError: no data there; or as `fit`.
    """
    config, how, world = config or TINY_UNET, how or PriorTraining(), world or World()
    train, val = load_training(data, how.every_style), load_images(data, "val")
    tables = ChainTables(Schedule.respaced("1000"), world.device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = shuffled_rows(len(train), how.batch, step, how.seed, world)
        x0 = augment(train.batch(rows), how.shift, generator)
        noise = torch.randn(x0.shape, generator=generator)
        return x0, noise, draw_times(len(x0), how, generator)

    def losses(
        forward: Callable[..., Tensor], step: int, batch: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        x0, noise, times = (part.to(world.device) for part in batch)
        table = tables.at(times)
        x = add_noise(x0, noise, table)
        output = forward(x, table.time)
        return {"loss": prior_loss(output.float(), x0, x, noise, table, how.l1).mean()}

    torch.manual_seed(how.seed)
    recipe = Recipe(
        kind="prior",
        network=UNet(config),
        architecture=asdict(config),
        settings=how,
        warmup=how.warmup,
        gradient_norm=1.0,
        optimizer=lambda unet: torch.optim.AdamW(
            unet.parameters(), lr=how.peak_rate, weight_decay=0.01
        ),
        draw=draw,
        losses=losses,
        evaluate=lambda ema, sheet: evaluate(ema, val, sheet),
        columns=("loss", "val_x0_mse_t200", "val_x0_mse_t400", "val_x0_mse_t600"),
        key="unet",
    )
    return fit(recipe, out, minutes, world, initial)
