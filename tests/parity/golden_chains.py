"""Golden chains through the engine, with recorded noise: every loss, samples on the way, the end.

Needs no pytest: `benchmarks/gpu_check.py` runs them on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dstc_engine.crops import whole_image
from dstc_engine.engine import Engine
from dstc_engine.models import Models
from dstc_engine.presets import Preset
from dstc_engine.request import Translation, TranslationRequest

# Relative to the golden value: of what one pass gives; absolute: of a sample, and relative of a
# loss, at the end of a chain.
FORWARD, SAMPLE = 1e-5, 2e-3


class RecordedNoise:
    """Replays the noise of a golden trajectory in the order it was drawn."""

    def __init__(self, recorded: Tensor) -> None:
        self._recorded: Iterator[Tensor] = iter(recorded)
        self.left = len(recorded)

    def chain(self) -> Tensor:
        self.left -= 1
        return next(self._recorded)

    def mask(self) -> Tensor:
        raise AssertionError("no golden row has a mask")

    def crops(self) -> Tensor:
        return whole_image(1)


def preset_of(trajectory: dict[str, Any], config: dict[str, Any]) -> Preset:
    weights = config["lambdas"]
    return Preset(
        name="goldens",
        image_size=config["config"]["image_size"],
        clips=("goldens",),
        respacing=trajectory["timestep_respacing"],
        skip=trajectory["skip"],
        sampler=trajectory["sampler"],
        resample=max(1, trajectory["resample"]),
        noise_mix=trajectory["noise_mix"],
        regularize_content=trajectory["regularize_content"],
        progressive_contrast=trajectory["progressive_contrast"],
        divergence_gate=trajectory["gate"],
        weight_structure=weights["ssim"],
        weight_contrast=weights["contrastive"],
        weight_divergence=weights["divergence"],
        weight_style_cls=weights["style_cls"],
        weight_style_pixels=weights["l2"],
        weight_clip=weights["clip"],
        weight_range=weights["range"],
        crops=1,
    )


def check_chain(
    trajectory: dict[str, Any],
    config: dict[str, Any],
    goldens: dict[str, Tensor],
    models: Models,
) -> float:
    """Runs a chain and compares it with its golden.

    Returns:
        The largest difference of a sample, in units of [-1, 1].

    Raises:
        AssertionError: what differs by more than its tolerance.
    """
    golden = {
        key.split("/")[2]: value
        for key, value in goldens.items()
        if key.startswith(f"traj/{trajectory['name']}/")
    }
    noise = RecordedNoise(golden["noise"])
    seen: list[tuple[Tensor, Tensor]] = []
    preset = preset_of(trajectory, config)
    engine = Engine(
        models,
        preset,
        1,
        make_noise=lambda _: noise,
        watch=lambda x, x0: seen.append((x.cpu(), x0.cpu())),
    )
    is_text = trajectory["mode"] == "text"
    engine.add(
        TranslationRequest(
            id=trajectory["name"],
            content=goldens["image/source_uint8"].permute(1, 2, 0).numpy(),
            style=None if is_text else goldens["image/style_uint8"].permute(1, 2, 0).numpy(),
            prompt=config["prompt"] if is_text else None,
            source_prompt=config["source_prompt"] if is_text else None,
            seed=0,
        )
    )
    done: list[Translation] = []
    while not engine.is_finished:
        done += engine.step()

    assert noise.left == 0, "the chain drew another number of noises than the official one"
    assert done[0].status == "done"
    assert done[0].steps == len(golden["loss_global_ssim"])
    _check_losses(done[0], golden, preset)
    worst = 0.0
    for at, sample in zip(golden["sample_steps"].tolist(), golden["samples"], strict=True):
        difference = float((seen[at][0][0] - sample).abs().max())
        assert difference < SAMPLE, f"x after guided step {at} is {difference:.1e} off"
        worst = max(worst, difference)
    last = float((seen[-1][1][:1] - golden["pred_xstart_last"]).abs().max())
    assert last < SAMPLE, f"the last x0 is {last:.1e} off"
    return max(worst, last)


def _is_near(ours: float, golden: float, rel: float, least: float = 1e-12) -> bool:
    """Within a share of the golden value; of values near zero, within `least`."""
    return abs(ours - golden) <= max(rel * abs(golden), least)


def _check_losses(done: Translation, golden: dict[str, Tensor], preset: Preset) -> None:
    unweighted = {
        "structure": "loss_global_ssim",
        "contrast": "loss_contra_ssim",
        "divergence": "loss_dir_cls",
        "clip": "clip_loss",
    }
    for ours, theirs in unweighted.items():
        if theirs not in golden:
            continue
        for step, value in zip(done.losses, golden[theirs].tolist(), strict=True):
            mine = step.losses[ours]
            assert math.isnan(mine) == math.isnan(value), f"{ours} at index {step.index}"
            if not math.isnan(value):
                # Late steps carry the differences of all earlier ones: the sample's tolerance.
                assert _is_near(mine, value, SAMPLE, FORWARD), (ours, step.index, mine, value)
    first = done.losses[0].losses
    for ours, theirs in unweighted.items():
        if theirs in golden and not math.isnan(first[ours]):
            value = float(golden[theirs][0])
            assert _is_near(first[ours], value, 10 * FORWARD), (ours, first[ours], value)
    ranges = torch.tensor([step.losses["range"] for step in done.losses], dtype=torch.float64)
    torch.testing.assert_close(
        ranges * preset.weight_range, golden["range_loss_weighted"], rtol=SAMPLE, atol=FORWARD
    )
