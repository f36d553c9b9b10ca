"""A row's way through a slot: waiting -> running -> finished, with repeats and restarts on the way.

Plain Python over a few floats; no tensor and no network is needed to follow or to test it.
"""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass, field

from dstc_engine.losses import LOSSES, Loss
from dstc_engine.presets import Preset
from dstc_engine.request import StepLosses, TranslationRequest


class Move(enum.Enum):
    """What becomes of a row after a step."""

    STEP = "step"  # on to the index below
    GO_BACK = "go_back"  # resampling: to the same index again, with fresh noise
    RESTART = "restart"  # out of range: the chain starts anew
    FINISH = "finish"  # the image is the last x0 estimate
    FAIL = "fail"  # numbers left the finite range


@dataclass(eq=False)
class Slot:
    """One row in flight.

    Attributes:
        request: the row. first_index: where its chain starts. source_clip_loss: of the content.
        index: of the next step. repeat: steps done at the first index.
        previous_clip_loss: unweighted, of the last guided step; NaN without a prompt.
        steps, restarts: taken so far, over all chains, steps without guidance included.
        losses: of the guided steps of the present chain.
    """

    request: TranslationRequest
    first_index: int
    source_clip_loss: float
    index: int = field(init=False)
    repeat: int = 0
    steps: int = 0
    restarts: int = 0
    previous_clip_loss: float = field(init=False)
    losses: list[StepLosses] = field(default_factory=list)
    entered: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.index = self.first_index
        self.previous_clip_loss = self.source_clip_loss

    def weights(self, preset: Preset) -> dict[str, float]:
        """The weight of each loss for this row's next guided step; zero leaves a loss out."""
        weights = {
            name: preset.weight_of(name) if self._has(loss) else 0.0
            for name, loss in LOSSES.items()
        }
        if self.index <= preset.divergence_gate:
            weights["divergence"] = 0.0
        # NaN (no prompt) compares false: rows without text keep the plain weight.
        if preset.regularize_content and self.previous_clip_loss < preset.contrast_clip_threshold:
            weights["contrast"] *= preset.regularize_factor
        if preset.progressive_contrast and self.previous_clip_loss > preset.contrast_clip_threshold:
            weights["contrast"] *= preset.progressive_factor
        return weights

    def _has(self, loss: Loss) -> bool:
        return loss.needs is None or getattr(self.request, loss.needs) is not None

    def push_scale(self, preset: Preset) -> float:
        """How often the push of this row's next guided step counts: for the steps left out too.

        Once in a spherical step, which the length of the push does not change.
        """
        if preset.guidance_step == "spherical" or self.index == self.first_index:
            return 1.0
        return float(preset.guidance_every)

    def advance(
        self, losses: dict[str, float] | None, preset: Preset, is_finite: bool = True
    ) -> Move:
        """Takes in what came of the step just done, decides, and moves `index`.

        Args:
            losses: unweighted, by name, NaN where not computed; None if the step was not guided.
            is_finite: whether the image is.
        """
        phase = "resample" if self._is_repeating(preset) else "sample"
        self.steps += 1
        if losses is not None:
            if not is_finite:
                losses = losses | {"total": float("nan")}
            self.losses.append(StepLosses(self.index, phase, losses))
            is_finite = math.isfinite(losses["total"])
        if not is_finite:
            return Move.FAIL
        if losses is not None:
            if self._is_out_of_range(losses["range"], preset):
                self._start_again()
                return Move.RESTART
            self.previous_clip_loss = losses["clip"]
        move = self.likely_move(preset)
        self.repeat += self.index == self.first_index
        self.index -= move is Move.STEP
        return move

    def likely_move(self, preset: Preset) -> Move:
        """What comes of the next step, unless its numbers end the row or start it again."""
        if self.index == self.first_index and self.repeat + 1 < preset.resample:
            return Move.GO_BACK
        return Move.FINISH if self.index == 0 else Move.STEP

    def _is_repeating(self, preset: Preset) -> bool:
        return self.index == self.first_index and preset.resample > 1

    def _is_out_of_range(self, range_loss: float, preset: Preset) -> bool:
        return (
            preset.range_restart
            # At index 0 the image is there: the official loop ends by then whatever the range.
            and 0 < self.index < self.first_index
            and self.restarts < preset.max_restarts
            and preset.weight_range * range_loss > preset.range_restart_limit
        )

    def _start_again(self) -> None:
        # Nothing of the chain given up may reach the new one: the official loop keeps the previous
        # image and the flag, so that one restart colours the next.
        self.restarts += 1
        self.index = self.first_index
        self.repeat = 0
        self.previous_clip_loss = self.source_clip_loss
        self.losses = []
