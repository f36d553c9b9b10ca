"""Floating-point operations of a student: of one row, and of its training.

Counted as `dstc_engine/operations.py` counts those of guidance, on shapes without numbers.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dstc_engine.kernel_counts import counting, total_flops
from dstc_engine.operations import Cost, meta_models
from dstc_engine.presets import Preset
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.gates import distances
from dstc_engine.student.losses import own_losses, see, teacher_losses
from dstc_engine.student.network import StudentConfig, StudentNetwork, usual_multipliers
from dstc_engine.student.training import StudentTraining

UNIT = "pass of a student; rows that fall back to guidance come on top"


def cost_of_student(
    preset: Preset, config: StudentConfig, with_prompt: bool, judged: bool = True
) -> Cost:
    """Counts the operations of a row: the student's pass, and what its gates look through.

    Args:
        preset: of the run. config: sizes of the student. with_prompt: looks have prompts.
        judged: gates look at the images.

    Example:
        cost_of_student(preset, config_of(preset, StudentTraining(), 2, False), False).row
    """
    encoders, network = _encoders(preset, with_prompt), _network(config)
    content, look = _shapes(preset, config)
    with counting() as counted:
        image = network(content, look)
        if judged:
            distances(encoders, content, image, look)
    return Cost(steps=1, step=total_flops(counted), conditions=0, text=0, unit=UNIT)


def training_flops(preset: Preset, how: StudentTraining, looks: int, with_prompt: bool) -> int:
    """Counts the operations of a training, forward and backward; validation is not in it.

    Args:
        preset: of the pilot. how: the settings. looks: of the pilot. with_prompt: they have some.
    """
    config = config_of(preset, how, looks, with_prompt)
    encoders, network = _encoders(preset, with_prompt), _network(config)
    content, look = _shapes(preset, config)
    with counting() as counted, torch.enable_grad():
        _descend((network(content, look) - content).abs().mean())
    image = total_flops(counted)
    with counting() as counted, torch.enable_grad():
        made = network(content, look)
        ours = encoders.dino(made)
        found = teacher_losses(ours, see(encoders, content)) | own_losses(
            encoders, made, ours, see(encoders, content), look, preset.contrast_temperature
        )
        _descend(torch.stack(list(found.values())).sum())
    seen = total_flops(counted) - image
    asked = -(-how.steps // how.feature_every) if how.feature_weights else 0
    return how.steps * how.batch * image + asked * min(how.feature_rows, how.batch) * seen


def config_of(preset: Preset, how: StudentTraining, looks: int, with_prompt: bool) -> StudentConfig:
    """Sizes of the student that a training makes."""
    return StudentConfig(
        image_size=preset.image_size,
        features=2 + sum(_encoders(preset, with_prompt).widths),
        looks=looks,
        channels=how.channels,
        multipliers=usual_multipliers(preset.image_size),
        embedding=how.embedding,
    )


def _descend(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@functools.lru_cache(maxsize=4)
def _encoders(preset: Preset, with_prompt: bool) -> StudentEncoders:
    models = meta_models(preset)
    if models.dino is None:
        from dstc_engine.student.encoders import load_encoders

        load_encoders(preset)  # says why there can be no student
    assert models.dino is not None
    clips = tuple(models.clips) if with_prompt else ()
    return StudentEncoders(dino=models.dino, clips=clips, device=torch.device("meta"))


def _network(config: StudentConfig) -> StudentNetwork:
    with torch.device("meta"):
        return StudentNetwork(config)


def _shapes(preset: Preset, config: StudentConfig) -> tuple[Tensor, Tensor]:
    size = preset.image_size
    content = torch.empty(1, 3, size, size, device="meta")
    return content, torch.empty(1, config.features, device="meta")
