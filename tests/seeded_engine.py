"""An engine whose losses depend on the seed: `make_settings(engine="tests.seeded_engine:SEEDED")`.

So that some rows are flagged, and another seed is better for some of them.
"""

from __future__ import annotations

import dataclasses

from dstc.engines.spec import EngineSpec
from dstc.planning.settings import Settings
from dstc_engine.fake import FakeEngine
from dstc_engine.request import StepLosses, Translation, TranslationRequest


def structure_of(seed: int) -> float:
    """The structure loss of an image's last step, 0 .. 1; exact in float32."""
    return seed % 1024 / 1024


class SeededEngine(FakeEngine):
    """Notes what it was asked for in `seen`."""

    def __init__(self, settings: Settings, slots: int) -> None:
        super().__init__(settings.resolved_preset, slots, step_seconds=settings.fake_step_seconds)
        self.seen: list[tuple[str, int]] = []

    def add(self, request: TranslationRequest) -> None:
        self.seen.append((request.id, request.seed))
        super().add(request)

    def _end(self, request: TranslationRequest, losses: list[StepLosses]) -> Translation:
        last = StepLosses(0, "sample", {"structure": structure_of(request.seed)})
        return dataclasses.replace(super()._end(request, losses), losses=[*losses[:-1], last])


SEEDED = EngineSpec(
    name="seeded", make=lambda task: lambda slots: SeededEngine(task.settings, slots)
)
