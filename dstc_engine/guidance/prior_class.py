"""The class that a class-conditional prior is shown.

No row says what it becomes in ImageNet's words. The official code therefore shows another random
class in each guided step, repeats of the first index included: none of them leads the chain
anywhere, and the guidance does. One class serves the whole step: mean, variance and gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dstc_engine.diffusion.unet import UNetConfig
from dstc_engine.errors import PresetError
from dstc_engine.noise import Noise
from dstc_engine.presets import Preset


def classes_of(prior: UNetConfig, preset: Preset) -> int | None:
    """The prior's number of classes, None where it has none.

    Raises:
        PresetError: the preset's prior_class is none of them.
    """
    if preset.prior_class >= (prior.classes or 0):
        fits = f"-1 to {prior.classes - 1}" if prior.classes else "-1, since the prior has none"
        raise PresetError(
            f"preset {preset.name!r}: prior_class is {preset.prior_class}; expected {fits}"
        )
    return prior.classes


def draw_classes(
    noises: Sequence[Noise | None],
    classes: int | None,
    fixed: int,
) -> Tensor | None:
    """What the prior is shown in one step, (S,) int64.

    Args:
        noises: of the S slots; an empty one gets class 0, which nobody looks at.
        classes: their number; None gives None and draws nothing.
        fixed: the class of all rows; -1 draws one for each, from its own stream.
    """
    if classes is None:
        return None
    drawn = [0 if n is None else fixed if fixed >= 0 else n.prior_class(classes) for n in noises]
    return torch.tensor(drawn)
