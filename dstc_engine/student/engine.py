"""The student's engine: the verbs of `dstc_engine.engine.Engine`, one pass for many rows.

B rows a step at most, P rows a pass, whether they are there or not: as in the guided engine, a
fixed shape gives every row the same arithmetic whoever its neighbors are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dstc_engine.device_memory import is_out_of_memory
from dstc_engine.engine import finish_image
from dstc_engine.fitted import fitted
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, Translation, TranslationRequest
from dstc_engine.student.gates import distances, failed
from dstc_engine.student.load import Student
from dstc_engine.student.looks import Looks, nearest, reaches
from dstc_engine.tensors import to_levels, to_tensor

BATCH = 64
# Rows a pass on a CPU, where what more rows leave behind no longer fits its cache: a row of the
# student took 16 ms in passes of 64, 10 in passes of 8.
_AT_ONCE_ON_CPU = 8
UNKNOWN_LOOK = "unknown_look"
_REMEMBERED = 1024  # looks


@dataclass(frozen=True)
class _Known:
    """A request whose look may be tried: what describes the look, and whose gates hold."""

    request: TranslationRequest
    described: Tensor
    look: int
    entered: float


class StudentEngine:
    """Translates images of looks that a student knows, B at a time.

    A row of another look fails, reason "unknown_look". Others are done, and tell their distances
    and the gates that they fail; whether such an image is used is for the caller to say.

    Args:
        student: loaded. batch: B, rows of a step; on a GPU one pass takes them all.
        judges: whether the networks of the gates look at images, which takes as long as to make
            them; without, there are no distances and no gate is failed.

    Example:
        engine = StudentEngine(load_student("runs/student", preset))
        engine.add(request)
        (translation,) = engine.step()
    """

    def __init__(self, student: Student, batch: int = BATCH, judges: bool = True) -> None:
        self._student = student
        self._batch = batch
        on_cpu = student.encoders.device.type == "cpu"
        self._at_once = min(batch, _AT_ONCE_ON_CPU) if on_cpu else batch
        self._judges = judges
        self._waiting: deque[TranslationRequest] = deque()
        self._looks = Looks(student.encoders, student.preset)
        self._modulations: dict[bytes, Tensor] = {}
        self._reaches = reaches(student.network.looks).tolist()
        self._keys = {look.key: number for number, look in enumerate(student.record.looks)}
        # What guidance does to a finished image, its results have shown the student already.
        self._finish = replace(student.preset, match_colours=False)

    def add(self, request: TranslationRequest) -> None:
        """Puts a request in line for the next batch."""
        self._waiting.append(request)

    @property
    def free_slots(self) -> int:
        """Requests that could be added and would run at the next step."""
        return max(0, self._batch - len(self._waiting))

    @property
    def is_finished(self) -> bool:
        """Nothing waits; between two steps nothing runs."""
        return not self._waiting

    @property
    def rows_underway(self) -> float:
        """A row is through in one step, and never underway between two."""
        return 0.0

    def is_device_dead(self) -> bool:
        """Whether the GPU refuses even the smallest work (`engine.Engine.is_device_dead`)."""
        device = self._student.encoders.device
        if device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize(device)
            torch.zeros(1, device=device).add_(1).cpu()
        except RuntimeError as error:
            return not is_out_of_memory(error)
        return False

    def knows(self, request: TranslationRequest) -> bool:
        """Whether the look of a request may be tried."""
        return self._look_up(request)[1] is not None

    @torch.no_grad()
    def step(self) -> list[Translation]:
        """Translates up to B of the rows in line; the rows that ended, which are all of them."""
        ended: list[Translation] = []
        rows: list[_Known] = []
        while self._waiting and len(rows) < self._batch:
            request, entered = self._waiting.popleft(), time.monotonic()
            described, look = self._look_up(request)
            if look is None:
                ended.append(_unknown(request))
            else:
                rows.append(_Known(request, described, look, entered))
        # Rows of a kind beside each other: a pass without a prompt in it needs no CLIP.
        rows.sort(key=lambda row: row.look)
        for first in range(0, len(rows), self._at_once):
            ended += self._translate(rows[first : first + self._at_once])
        return ended

    def _look_up(self, request: TranslationRequest) -> tuple[Tensor, int | None]:
        """(F,) of the request's look, and the known look whose gates hold; None: not to be tried.

        A look of the training is known by its key: what another machine's arithmetic makes of its
        style image differs in the last digits.
        """
        known = self._student.network.looks
        look = self._looks.of(request)
        if look.key in self._keys:
            number = self._keys[look.key]
            return known[number], number
        has_clips = len(self._student.encoders.widths) > 1
        if look.prompt is not None and not has_clips:
            return known[0], None
        described = self._looks.describe(look, request)
        number, distance = nearest(described, known)
        return described, number if distance < self._reaches[number] else None

    def _translate(self, rows: list[_Known]) -> list[Translation]:
        """One pass over 1 to P rows."""
        preset, encoders = self._student.preset, self._student.encoders
        size, device = preset.image_size, encoders.device
        contents = torch.zeros(self._at_once, 3, size, size)
        for place, row in enumerate(rows):
            contents[place] = to_tensor(fitted(row.request, preset).content)
        contents = contents.to(device)
        looks = torch.zeros(self._at_once, self._looks.features, device=device)
        looks[: len(rows)] = torch.stack([row.described for row in rows])
        modulation = torch.cat([self._modulation(row.described) for row in rows])
        modulation = torch.cat([modulation, modulation[:1].expand(self._at_once - len(rows), -1)])
        images = self._student.network.render(contents, modulation).float()
        finite = torch.isfinite(images).flatten(1).all(dim=1).tolist()
        images = images.clamp(-1, 1)
        found: list[dict[str, float]] = [{}] * len(rows)
        if self._judges:
            with_style = any(row.request.style is not None for row in rows)
            with_prompt = any(row.request.prompt is not None for row in rows)
            measured = distances(encoders, contents, images, looks, with_style, with_prompt)
            values = torch.stack(list(measured.values()), dim=1).tolist()
            found = [dict(zip(measured, of_row, strict=True)) for of_row in values]
        levels = to_levels(images).cpu()
        return [
            self._leave(row, image, is_finite, of_row, len(rows))
            for row, image, is_finite, of_row in zip(rows, levels, finite, found, strict=False)
        ]

    def _modulation(self, described: Tensor) -> Tensor:
        """(1, M) of a look, each computed alone.

        A product of matrices gives a row other last digits in another place of the batch.
        """
        key = described.cpu().numpy().tobytes()
        if key not in self._modulations:
            if len(self._modulations) >= _REMEMBERED:
                self._modulations.clear()
            self._modulations[key] = self._student.network.modulate(described[None])
        return self._modulations[key]

    def _leave(
        self, row: _Known, levels: Tensor, is_finite: bool, found: dict[str, float], rows: int
    ) -> Translation:
        request = row.request
        limits = self._student.record.looks[row.look].limits
        return Translation(
            id=request.id,
            seed=request.seed,
            status="done" if is_finite else "failed",
            image=_to_finish(levels, request, self._finish) if is_finite else None,
            reason=None if is_finite else "non_finite",
            error=None if is_finite else "the student's image is not finite",
            steps=1,
            seconds=(time.monotonic() - row.entered) / rows,
            slots=self._batch,
            made_by="student",
            distances=found,
            failed_gates=failed(found, limits) if self._judges else (),
        )


def _to_finish(
    levels: Tensor, request: TranslationRequest, preset: Preset
) -> Callable[[], ImageArray]:
    return lambda: finish_image(levels, request, preset)


def _unknown(request: TranslationRequest) -> Translation:
    asked = [f"prompt {request.prompt!r:.80}"] if request.prompt is not None else []
    asked += ["a style image"] if request.style is not None else []
    return Translation(
        id=request.id,
        seed=request.seed,
        status="failed",
        image=None,
        reason=UNKNOWN_LOOK,
        error=f"the student knows no look near {' and '.join(asked)}; expected one of its pilot",
    )
