"""The settings of an ADM checkpoint, named as the commands of guided-diffusion name them.

A checkpoint holds tensors alone: their names and shapes do not tell heads, the order of attention,
or the noise schedule. Those who train one publish its flags; `UNetConfig.from_flags` and
`NoiseSchedule.from_flags` read them here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TypeVar

from dstc_engine.errors import WeightsError

# Of `model_and_diffusion_defaults`, besides `sigma_small` (improved-diffusion) and `num_classes`
# (1000 is a literal there). use_checkpoint, use_fp16, use_kl, rescale_learned_sigmas say how a
# network was trained; timestep_respacing is the preset's: sampling needs none of these.
FLAG_NAMES = frozenset(
    "image_size num_channels num_res_blocks num_heads num_heads_upsample num_head_channels "
    "attention_resolutions channel_mult dropout class_cond num_classes use_checkpoint "
    "use_scale_shift_norm resblock_updown use_fp16 use_new_attention_order learn_sigma sigma_small "
    "diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
    "rescale_learned_sigmas".split()
)


# What is no part of this, and why.
REFUSED = {
    "predict_xstart": "the network must predict the noise, not the image",
    "large_size": "upsamplers also need a small image",
    "small_size": "upsamplers also need a small image",
}

N = TypeVar("N", int, float)


class Flags:
    """Flags as read from JSON, YAML or a command line: values or their text.

    A name that nearly is one of `FLAG_NAMES` is refused, since heads or the order of attention fit
    any weights: a flag that is overlooked would give other images, and no error. Other unknown
    names are ignored.

    Raises:
        WeightsError: a misspelt name, or one of `REFUSED` that is not false; in the methods, a
            value of another kind. The flag is named.
    """

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given
        for name, why in REFUSED.items():
            if str(given.get(name, False)).lower() not in ("false", "none", ""):
                raise WeightsError(f"flag {name} is {given[name]!r}; expected none: {why}")
        for name in given.keys() - FLAG_NAMES - REFUSED.keys():
            near = difflib.get_close_matches(name, FLAG_NAMES, 1, 0.8)
            if near:
                raise WeightsError(f"flag {name!r} is unknown; did you mean {near[0]}?")

    def text(self, name: str, default: str | None = None) -> str:
        """The value as text; without a default it must be given."""
        if name in self._given:
            return str(self._given[name]).strip()
        if default is None:
            raise WeightsError(f"flag {name} is missing; no weights tell it")
        return default

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number; without a default it must be given."""
        text = self.text(name, None if default is None else str(default))
        try:
            return int(text)
        except ValueError:
            raise self._wrong(name, "a whole number") from None

    def number(self, name: str, default: float) -> float:
        """A number."""
        try:
            return float(self.text(name, str(default)))
        except ValueError:
            raise self._wrong(name, "a number") from None

    def switch(self, name: str, default: bool) -> bool:
        """True or false, also as text: `bool("False")` would be true."""
        text = self.text(name, str(default)).lower()
        if text not in ("true", "false"):
            raise self._wrong(name, "true or false")
        return text == "true"

    def listed(
        self, name: str, kind: Callable[[str], N], default: str | None = None
    ) -> tuple[N, ...]:
        """Numbers of a kind (`int`, `float`), a list or comma-separated; empty text gives none."""
        given = self._given.get(name)
        texts = self.text(name, default).split(",")
        if isinstance(given, list | tuple):
            texts = [str(part) for part in given]
        try:
            return tuple(kind(part) for part in texts if part.strip())
        except ValueError:
            raise self._wrong(name, f"{kind.__name__} values separated by commas") from None

    def _wrong(self, name: str, expected: str) -> WeightsError:
        return WeightsError(f"flag {name} is {self._given.get(name)!r}; expected {expected}")
