"""The ways to translate that speed benchmarks set side by side, and the rows they do it with."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.official_pattern import OfficialPattern
from benchmarks.variants import read_rows
from dstc_engine.engine import Engine, translate
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.models import Models, load_models
from dstc_engine.presets import Preset, get_preset
from dstc_engine.request import ImageArray, TranslationRequest

DEMO = Path(__file__).resolve().parent.parent / "manifests" / "demo.parquet"
# The same networks by the step of the paper, and by the spherical step, which makes other images.
OFFICIAL_STEP, SPHERICAL_STEP = "tiny64-variance", "tiny64"


def mixed_rows(count: int) -> list[TranslationRequest]:
    """Rows of the demo, text, image and both in turn, repeated under new ids where there are more.

    A repeated row has another seed, and its images are remembered as in a job.
    """
    demo = read_rows(DEMO, None)
    kinds = [
        [row for row in demo if (row.prompt is not None, row.style is not None) == kind]
        for kind in ((True, False), (False, True), (True, True))
    ]
    in_turn = itertools.cycle(row for group in zip(*kinds, strict=True) for row in group)
    return [
        dataclasses.replace(row, id=f"{number:04d}-{row.id}", seed=number)
        for number, row in zip(range(count), in_turn, strict=False)
    ]


@functools.cache
def tiny_models(precision: str) -> Models:
    """The shipped networks, shared by all ways of a precision."""
    return load_models(get_preset(OFFICIAL_STEP), precision=precision)


def name_of(slots: int, preset: str) -> str:
    """What a table calls a way; 0 slots are the official pattern."""
    step = "" if preset == OFFICIAL_STEP else ", spherical step"
    return (f"engine, {slots} slots" if slots else "official pattern") + step


class Way:
    """One way to translate with the tiny networks on the CPU.

    Args:
        precision: of the networks. slots: of the engine; 0 is the official pattern.
        preset: OFFICIAL_STEP or SPHERICAL_STEP.
    """

    def __init__(self, precision: str, slots: int, preset: str = OFFICIAL_STEP) -> None:
        self.precision, self.slots = precision, slots
        self._preset = get_preset(preset)
        self._models = tiny_models(precision)

    @property
    def name(self) -> str:
        return name_of(self.slots, self._preset.name)

    @property
    def has_official_step(self) -> bool:
        """Its images are those of the official pattern, but for rounding."""
        return self._preset.name == OFFICIAL_STEP

    def translate(self, rows: Sequence[TranslationRequest]) -> dict[str, ImageArray]:
        """Whole chains of these rows, by their ids; nothing is remembered from rows before."""
        return self._translate(rows, self._preset)

    def warm_up(self, rows: Sequence[TranslationRequest]) -> None:
        """One step of each row: kernels are chosen and memory grows at the first one."""
        last = dataclasses.replace(self._preset, skip=int(self._preset.respacing) - 1, resample=1)
        self._translate(rows[: max(1, self.slots)], last)

    def _translate(
        self, rows: Sequence[TranslationRequest], preset: Preset
    ) -> dict[str, ImageArray]:
        models = self._models
        # Ways share the networks; one must not find what another has looked at.
        models.features = FeatureCache(models.features.limit)
        models.texts = FeatureCache(models.texts.limit)
        if self.slots:
            ended = list(translate(Engine(models, preset, self.slots), rows))
        else:
            pattern = OfficialPattern(models, preset)
            ended = [pattern.translate(row) for row in rows]
        images = {}
        for row in ended:
            assert row.image is not None, f"{row.id}: {row.error}"
            images[row.id] = row.image
        return images
