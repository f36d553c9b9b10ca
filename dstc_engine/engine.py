"""The engine: a table of slots, each at its own time step, refilled as rows finish.

    engine = Engine(load_models(preset), preset, slots=4)
    for translation in translate(engine, requests):
        ...

S slots, H x W pixels. The tensors always hold S rows, busy or not: a fixed shape gives every row
the same arithmetic whoever its neighbours are, and lets a GPU compile or capture the step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from dstc_engine.color import match_colours
from dstc_engine.device_memory import is_out_of_memory
from dstc_engine.diffusion.sampling import (
    ChainTables,
    StepTable,
    add_noise,
    ddim_step,
    ddpm_step,
    go_back,
    spherical_step,
    with_posterior_variance,
)
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.drawn_ahead import DrawnAhead
from dstc_engine.fitted import fitted, shown_content, shown_mask, shown_style, without_padding
from dstc_engine.guidance.conditions import Conditions, encode_conditions
from dstc_engine.guidance.guide import Guidance, guide
from dstc_engine.guidance.partial import StepRows, guide_some
from dstc_engine.guidance.prior_class import classes_of, draw_classes
from dstc_engine.losses import LOSS_NAMES, WEIGHTED
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, Translation, TranslationRequest
from dstc_engine.slots import Move, Slot
from dstc_engine.tensors import to_image, to_levels
from dstc_engine.transfer import download, upload


class Engine:
    """Translates images, S at a time.

    Args:
        models: the preset's networks. preset: how. slots: S, rows in flight at once.
        make_noise: the randomness of a row; by default drawn from its seed.
        compiled: the same networks compiled (`compiled.compiled`), which steps then go through.
        watch: called after each step with x_{t-1} and the x0 estimate, both (S, 3, H, W),
            before any going back; to look on, not to change.

    Raises:
        PresetError: the preset's chain has no step, or its prior_class is none of the prior's.
    """

    def __init__(
        self,
        models: Models,
        preset: Preset,
        slots: int,
        make_noise: Callable[[TranslationRequest], Noise] | None = None,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        compiled: Models | None = None,
    ) -> None:
        self.models = models
        self._stepping = compiled or models
        self.preset = preset
        self._classes = classes_of(models.unet.config, preset)
        self._guides_every_step = preset.guides_every_step
        self._guided_steps = preset.guided_steps
        self._looks_with_clips = bool(models.clips) and preset.guides("clip")
        schedule = Schedule.respaced(preset.respacing, models.noise_schedule)
        self._first_index = schedule.first_index(preset.skip)
        self._tables = ChainTables(schedule, models.device)
        self._make_noise = make_noise or (lambda request: RowNoise.of(request.seed, preset))
        self._watch = watch
        self._waiting: deque[TranslationRequest] = deque()
        self._slots: list[Slot | None] = [None] * slots
        self._noises: list[DrawnAhead | None] = [None] * slots
        shape = (slots, 3, preset.image_size, preset.image_size)
        self._x = torch.zeros(shape, device=models.device)
        self._no_noise = self._x.new_zeros(shape[1:])
        self._no_crops = self._x.new_zeros(len(models.clips), preset.crops, 2, 3)
        # Shaped by the first row, since only the networks know their widths.
        self._conditions: Conditions | None = None
        self._previous_cls = torch.zeros(0)

    def add(self, request: TranslationRequest) -> None:
        """Puts a request in line for the next free slot."""
        self._waiting.append(request)

    @property
    def free_slots(self) -> int:
        """Requests that could be added and would run at the next step."""
        return max(0, self._slots.count(None) - len(self._waiting))

    @property
    def is_finished(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not any(self._slots)

    @property
    def rows_underway(self) -> float:
        """The rows in slots, each by the share of its guided steps that is done: 0 .. slots.

        A row that starts again begins at nothing.
        """
        return sum(len(slot.losses) for slot in self._slots if slot) / self._guided_steps

    def is_device_dead(self) -> bool:
        """Whether the GPU refuses even the smallest work, as it does after an illegal access.

        Such a CUDA context never comes back in the same process.
        """
        if self.models.device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize(self.models.device)
            torch.zeros(1, device=self.models.device).add_(1).cpu()
        except RuntimeError as error:
            return not is_out_of_memory(error)
        return False

    @torch.no_grad()
    def step(self) -> list[Translation]:
        """Refills free slots, takes one step with all rows; returns the rows that ended."""
        untouched = self._refill()
        if not any(self._slots) or self._conditions is None:
            return untouched
        index = torch.tensor([s.index if s else 0 for s in self._slots])
        table = self._tables.at(upload(index, self._x.device))
        guidance = self._guide(table, self._conditions)
        denoised, push, noise = guidance.denoised, guidance.push, self._draw_chain()
        if self.preset.step_variance == "posterior":
            denoised = with_posterior_variance(denoised, table)
        if self.preset.sampler == "ddim":
            x, x0 = ddim_step(self._x, denoised, push, table)
        elif self.preset.guidance_step == "spherical":
            rate = self.preset.guidance_rate
            x, x0 = spherical_step(self._x, denoised, push, noise, rate, table)
        else:
            x, x0 = ddpm_step(self._x, denoised, push, noise, table)
        if self._watch:
            self._watch(x.clone(), x0.clone())
        self._previous_cls = guidance.cls
        finite = torch.isfinite(x).flatten(1).all(dim=1)
        values = torch.cat([guidance.losses, finite[:, None].to(guidance.losses)], dim=1)
        self._x = x
        self._look_ahead()
        ending = self._ending(x0)
        # The one time that a GPU is waited for: the losses and one flag of each row, and images
        # that were asked for before.
        return untouched + self._move_on(values.tolist(), ending, table)

    # -- one step, in its parts ------------------------------------------------------------------

    def _refill(self) -> list[Translation]:
        """Fills free slots; returns rows whose masks leave nothing to translate."""
        untouched = []
        for s in range(len(self._slots)):
            while self._slots[s] is None and self._waiting:
                request = self._waiting.popleft()
                request = fitted(request, self.preset)
                mask = shown_mask(request, self.preset)
                if mask is None or mask.any():
                    self._enter(s, request)
                else:
                    untouched.append(_untouched(request, self.preset, len(self._slots)))
        return untouched

    def _enter(self, s: int, request: TranslationRequest) -> None:
        noise = self._make_noise(request)
        row, source_clip_loss = encode_conditions(self.models, self.preset, request)
        if self._conditions is None:
            self._conditions = row.empty(len(self._slots))
            self._previous_cls = self._conditions.source_cls.clone()
        self._conditions[s] = row
        self._slots[s] = Slot(request, self._first_index, source_clip_loss)
        self._noises[s] = DrawnAhead(noise, self._x.device, len(self.models.clips))
        self._start(s)

    def _start(self, s: int) -> None:
        """Puts row `s` at the beginning of a chain: its content, noised to the first index."""
        noise, to = self._noises[s], self._conditions
        assert noise is not None and to is not None
        self._x[s] = self._noised_source(s, noise.chain(), self._first_index)
        self._previous_cls[s] = to.source_cls[s]

    def _noised_source(self, s: int, noise: Tensor, index: int) -> Tensor:
        assert self._conditions is not None
        table = self._tables.at(upload(torch.tensor([index]), self._x.device))
        return add_noise(self._conditions.source[s : s + 1], noise[None], table)[0]

    def _guide(self, table: StepTable, to: Conditions) -> Guidance:
        of_rows = [
            slot.weights(self.preset) if slot and self._is_guided(slot) else {}
            for slot in self._slots
        ]
        weights = [[row.get(name, 0.0) for name in WEIGHTED] for row in of_rows]
        crops = [
            noise.crops() if noise is not None and row.get("clip") else self._no_crops
            for noise, row in zip(self._noises, of_rows, strict=True)
        ]
        classes = draw_classes(self._noises, self._classes, self.preset.prior_class)
        device = self._x.device
        step = StepRows(
            x=self._x,
            table=table,
            to=to,
            previous_cls=self._previous_cls,
            crops=torch.stack(crops, dim=1),
            weights=upload(torch.tensor(weights), device),
            wanted={n: [s for s, row in enumerate(of_rows) if row.get(n)] for n in WEIGHTED},
            classes=None if classes is None else upload(classes, device),
        )
        if self._guides_every_step:
            return guide(self._stepping, self.preset, **vars(step))
        busy = [s for s, slot in enumerate(self._slots) if slot]
        guided = [s for s in busy if of_rows[s]]
        plain = [s for s in busy if not of_rows[s]]
        guidance = guide_some(self._stepping, self.preset, step, guided, plain)
        scales = [slot.push_scale(self.preset) if slot else 0.0 for slot in self._slots]
        guidance.push.mul_(upload(torch.tensor(scales), device)[:, None, None, None])
        return guidance

    def _is_guided(self, slot: Slot) -> bool:
        return self._guides_every_step or self.preset.guides_at(slot.index)

    def _draw_chain(self) -> Tensor:
        """(S, 3, H, W): the chain's noise of each busy row, zeros elsewhere."""
        return torch.stack([self._no_noise if n is None else n.chain() for n in self._noises])

    def _look_ahead(self) -> None:
        """Draws what rows will need between this step's numbers and the next step's.

        A row that its numbers start again uses the same draws for something else.
        """
        for slot, noise in zip(self._slots, self._noises, strict=True):
            if slot is None or noise is None:
                continue
            move = slot.likely_move(self.preset)
            if move is Move.FINISH:
                continue
            index = slot.index - (move is Move.STEP)
            is_guided = self._guides_every_step or self.preset.guides_at(index)
            has_crops = is_guided and slot.request.prompt is not None and self._looks_with_clips
            noise.look_ahead(
                chain=1 + (move is Move.GO_BACK),
                mask=int(slot.request.mask is not None),
                crops=int(has_crops),
            )

    def _ending(self, x0: Tensor) -> dict[int, Tensor]:
        """(3, H, W) uint8 on the CPU of each row that this step ends, unless its numbers forbid.

        To be read after the step's wait.
        """
        return {
            s: download(to_levels(x0[s]))
            for s, slot in enumerate(self._slots)
            if slot is not None and slot.likely_move(self.preset) is Move.FINISH
        }

    def _move_on(
        self, values: list[list[float]], ending: dict[int, Tensor], table: StepTable
    ) -> list[Translation]:
        ended = []
        for s, slot in enumerate(self._slots):
            if slot is None:
                continue
            losses = dict(zip(LOSS_NAMES, values[s][:-1], strict=True))
            is_guided, is_finite = self._is_guided(slot), bool(values[s][-1])
            move = slot.advance(losses if is_guided else None, self.preset, is_finite)
            if move in (Move.FINISH, Move.FAIL):
                ended.append(self._leave(s, slot, ending[s] if move is Move.FINISH else None))
            elif move is Move.RESTART:
                self._start(s)
            else:
                if move is Move.GO_BACK:
                    self._go_back(s, table)
                if slot.request.mask is not None:
                    self._keep_outside_mask(s, slot)
        return ended

    def _go_back(self, s: int, table: StepTable) -> None:
        noise = self._noises[s]
        assert noise is not None
        back = go_back(self._x[s : s + 1], noise.chain()[None], table.rows(slice(s, s + 1)))
        self._x[s] = back[0]

    def _keep_outside_mask(self, s: int, slot: Slot) -> None:
        noise, to = self._noises[s], self._conditions
        assert noise is not None and to is not None
        kept = self._noised_source(s, noise.mask(), slot.index)
        self._x[s] = to.mask[s] * self._x[s] + (1 - to.mask[s]) * kept

    def _leave(self, s: int, slot: Slot, levels: Tensor | None) -> Translation:
        """Empties a slot; without the levels of its image, the row has failed."""
        self._slots[s], self._noises[s] = None, None
        # A NaN left in a free slot would stay in it; zeros keep the batch's arithmetic finite.
        self._x[s] = 0
        self._previous_cls[s] = 0
        return Translation(
            id=slot.request.id,
            seed=slot.request.seed,
            status="failed" if levels is None else "done",
            image=None if levels is None else _to_finish(levels, slot.request, self.preset),
            reason="non_finite" if levels is None else None,
            error=f"losses or image not finite at index {slot.index}" if levels is None else None,
            steps=slot.steps,
            restarts=slot.restarts,
            seconds=time.monotonic() - slot.entered,
            slots=len(self._slots),
            losses=slot.losses,
        )


def _to_finish(
    levels: Tensor, request: TranslationRequest, preset: Preset
) -> Callable[[], ImageArray]:
    return lambda: finish_image(levels, request, preset)


def finish_image(x0: Tensor, request: TranslationRequest, preset: Preset) -> ImageArray:
    """The image to save: (3, H, W) x0 estimate, or its levels, to (H, W, 3) uint8.

    Clamped, padding cut off, its colours matched to the style's if asked for, content put back
    outside the mask. Colours are matched where the image was translated: neither padding nor what
    a mask keeps has a say in them.
    """
    request = fitted(request, preset)
    image = without_padding(to_image(x0), request, preset)
    mask, style = shown_mask(request, preset), shown_style(request, preset)
    share = None if mask is None else mask / 255.0
    if preset.match_colours and style is not None:
        stretch = preset.color_match_range == "stretch"
        image = match_colours(image, style, share, stretch=stretch)
    if share is not None:
        inside = share[..., None]
        content = shown_content(request, preset)
        image = np.rint(inside * image + (1 - inside) * content).astype(np.uint8)
    return image


def _untouched(request: TranslationRequest, preset: Preset, slots: int) -> Translation:
    """The end of a row whose mask keeps all of the content: no step is worth its time."""
    return Translation(
        id=request.id,
        seed=request.seed,
        status="done",
        image=shown_content(request, preset),
        slots=slots,
    )


def translate(engine: Engine, requests: Iterable[TranslationRequest]) -> Iterator[Translation]:
    """Translates requests as slots come free, and yields each as it ends, in that order.

    No more requests are taken from the iterator than there are free slots, so it may be endless.
    """
    source = iter(requests)
    exhausted = False
    while not (exhausted and engine.is_finished):
        while not exhausted and engine.free_slots:
            request = next(source, None)
            if request is None:
                exhausted = True
            else:
                engine.add(request)
        yield from engine.step()
