"""Floating-point operations of a row: one guided step, counted on PyTorch's meta device.

Operations are counted, not guessed: the preset's networks run on shapes without numbers, so no
weights and hardly any memory, under PyTorch's own table of convolutions, matrix products and
attention, forward and backward. Norms, activations, resizes and crops are not counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dstc_engine.presets import Preset

if TYPE_CHECKING:
    from dstc_engine.models import Models

_TEXT_TEMPLATES = 79


@dataclass(frozen=True)
class Cost:
    """Floating-point operations; a multiplication with its addition counts as two.

    Attributes:
        steps: guided steps of a row that never restarts.
        step: of one row in one guided step: all networks forward, and backward to the image.
        plain_steps, plain_step: the same of steps that the preset leaves without guidance, which
            ask the prior alone.
        conditions: once per row: its content and style encoded.
        text: once per actor and text: a prompt over all templates; remembered afterwards, and
            therefore not part of `row`.
        unit: what a step is called where its number is told.
    """

    steps: int
    step: int
    conditions: int
    text: int
    plain_steps: int = 0
    plain_step: int = 0
    unit: str = "guided steps"

    @property
    def chain(self) -> int:
        """Operations of all steps of one image."""
        return self.steps * self.step + self.plain_steps * self.plain_step

    @property
    def row(self) -> int:
        """Operations of one row, from the start of its slot to its end."""
        return self.chain + self.conditions

    def hours(self, rows: int, actors: int, tflops: float) -> float:
        """Hours for so many rows on devices of a sustained rate, slots always full."""
        return rows * self.row / (actors * tflops * 1e12) / 3600


@functools.lru_cache(maxsize=8)
def cost_of(preset: Preset, with_prompt: bool = True) -> Cost:
    """Counts the operations of a row.

    Args:
        with_prompt: the row has one, and looks through CLIP in each step.

    Raises:
        PresetError: the preset's chain has no step.
        WeightsError: a network of another name than those of the registry.
    """
    from dstc_engine.diffusion.schedule import Schedule

    models = meta_models(preset)
    schedule = Schedule.respaced(preset.respacing, models.noise_schedule)
    schedule.first_index(preset.skip)  # refuses a chain without a step, as the engine does
    return Cost(
        steps=preset.guided_steps,
        step=_count_step(models, preset, with_prompt),
        conditions=_count_conditions(models, preset, with_prompt),
        text=_count_text(models),
        plain_steps=preset.steps - preset.guided_steps,
        plain_step=_count_plain_step(models, preset),
    )


def meta_models(preset: Preset) -> Models:
    """The preset's networks without weights, on the meta device."""
    import torch

    from dstc_engine.encoders.arcface import ArcFace
    from dstc_engine.encoders.vgg import Vgg
    from dstc_engine.models import build_models, vgg_layers
    from dstc_engine.weights.architectures import build_clip, build_unet, noise_schedule
    from dstc_engine.weights.load import build_dino, wrap_clip
    from dstc_engine.weights.registry import find

    def clip(name: str) -> Any:
        weights = find(name, "clip")
        return wrap_clip(weights, build_clip(weights))

    makers: dict[str, Callable[[str], Any]] = {
        "prior": lambda name: build_unet(find(name, "prior")),
        "dino": lambda name: build_dino(find(name, "vit"), preset.dino_size, preset.dino_layer),
        "clips": clip,
        "arcface": lambda name: ArcFace(preset.identity_crop),
        "vgg": lambda name: Vgg(preset.vgg_size, vgg_layers(preset)),
    }
    with torch.device("meta"):
        return build_models(
            preset,
            makers,
            noise_schedule=noise_schedule(find(preset.prior, "prior")),
            device=torch.device("meta"),
        )


def _count_step(models: Models, preset: Preset, with_prompt: bool) -> int:
    """One guided step of one row, as the engine runs it."""
    import torch

    from dstc_engine.diffusion.sampling import ChainTables
    from dstc_engine.diffusion.schedule import Schedule
    from dstc_engine.guidance.conditions import Conditions
    from dstc_engine.guidance.guide import guide
    from dstc_engine.kernel_counts import counting, total_flops
    from dstc_engine.losses import LOSSES

    with torch.device("meta"), torch.no_grad():
        image = torch.empty(1, 3, preset.image_size, preset.image_size)
        keys, cls = torch.empty(1, 0, 0), torch.empty(1, 0)
        if models.dino is not None:
            seen = models.dino(image)
            keys, cls = seen.keys, seen.cls
        tokens = keys.shape[1]
        layers = models.vgg(image) if models.vgg is not None else {}
        widths = [layers[name].shape[1] for name in preset.vgg_gram_layers if name in layers]
        to = Conditions(
            source=image,
            mask=image[:, :1],
            source_keys=keys,
            source_similarity=torch.empty(1, tokens, tokens),
            source_cls=cls,
            style=image,
            style_cls=cls,
            clip_targets=tuple(clip.embed_image(image) for clip in models.clips),
            source_face=torch.empty(1, 512),
            source_vgg=tuple(layers[name] for name in preset.vgg_content_layers if name in layers),
            style_grams=tuple(torch.empty(1, width, width) for width in widths),
        )
        index = torch.zeros(1, dtype=torch.int64)
        schedule = Schedule.respaced(preset.respacing, models.noise_schedule)
        table = ChainTables(schedule, "meta").at(index)
        crops = torch.empty(len(models.clips), 1, preset.crops, 2, 3)
        weights = torch.empty(1, len(LOSSES))
        classes = index if models.unet.config.classes is not None else None
    wanted = {n: [0] for n, loss in LOSSES.items() if with_prompt or loss.needs != "prompt"}
    with counting() as counted:
        guide(models, preset, image, table, to, cls, crops, weights, wanted, classes)
    return total_flops(counted)


def _count_plain_step(models: Models, preset: Preset) -> int:
    """The prior alone, forward."""
    import torch

    from dstc_engine.kernel_counts import counting, total_flops

    with torch.device("meta"), torch.no_grad(), counting() as counted:
        image = torch.empty(1, 3, preset.image_size, preset.image_size)
        classes = None
        if models.unet.config.classes is not None:
            classes = torch.zeros(1, dtype=torch.int64)
        models.unet(image, torch.zeros(1), classes)
    return total_flops(counted)


def _count_conditions(models: Models, preset: Preset, with_prompt: bool) -> int:
    """What `conditions.encode_conditions` runs forward, of a row with a style image."""
    import torch

    from dstc_engine.kernel_counts import counting, total_flops
    from dstc_engine.losses import SEEN_BY_VGG

    with torch.device("meta"), torch.no_grad(), counting() as counted:
        image = torch.empty(1, 3, preset.image_size, preset.image_size)
        if models.dino is not None:
            models.dino(image)
            models.dino(image)
        if models.vgg is not None:
            for _ in filter(preset.guides, SEEN_BY_VGG):  # content and style: an image each
                models.vgg(image)
        for clip in models.clips:
            if with_prompt:
                clip.embed_image(image)
        if models.arcface is not None:
            models.arcface(image)
    return total_flops(counted)


def _count_text(models: Models) -> int:
    """One text through all CLIP models."""
    import torch

    from dstc_engine.kernel_counts import counting, total_flops

    with torch.device("meta"), torch.no_grad(), counting() as counted:
        for clip in models.clips:
            length = clip.model.context_length
            clip.model.encode_text(torch.zeros(_TEXT_TEMPLATES, length, dtype=torch.int64))
    return total_flops(counted)
