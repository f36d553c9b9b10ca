"""How the authors' research script evaluates the method: one image at a time, nothing used twice.

The yardstick of the speed benchmarks. Networks, losses, slot logic, tables and noise are the
engine's, so it is mathematically the same translation; what differs is the work done for it, as in
`optimization/image_editor.py` and `model_vit/loss_vit.py` of cyclomon/DiffuseIT. Per guided step:

- the UNet runs forward twice: inside the guidance, and again for mean, variance and x0;
- each DINO loss runs DINO on the image that guides, and again on what it is compared with:
  the source (structure and contrast each), the style image, the previous guided image;
- so does the identity loss with its face network (and here the VGG losses, which the script lacks);
- one `torch.autograd.grad` takes the total back through all networks and the UNet at once;
- each loss is read by the host.

Left out are the script's recomputed attention, its gradients that nobody reads, and its images
written at every step: they would make it slower, but no other algorithm.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dstc_engine.crops import apply_crops
from dstc_engine.diffusion.sampling import (
    ChainTables,
    Denoised,
    StepTable,
    add_noise,
    ddim_step,
    ddpm_step,
    go_back,
    read_denoiser,
    spherical_step,
)
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.encoders.dino import DinoFeatures
from dstc_engine.engine import finish_image
from dstc_engine.feature_cache import FeatureCache
from dstc_engine.guidance.conditions import Conditions, encode_conditions
from dstc_engine.guidance.prior_class import classes_of, draw_classes
from dstc_engine.losses import LOSS_NAMES
from dstc_engine.losses.clip_direction import clip_direction_loss
from dstc_engine.losses.contrast import contrast_loss
from dstc_engine.losses.divergence import divergence_loss
from dstc_engine.losses.identity import identity_loss
from dstc_engine.losses.range import range_loss
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.losses.style import style_cls_loss, style_pixels_loss
from dstc_engine.losses.vgg_content import vgg_content_loss
from dstc_engine.losses.vgg_gram import gram_matrix, vgg_gram_loss
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import Translation, TranslationRequest
from dstc_engine.slots import Move, Slot


class OfficialPattern:
    """Translates one image at a time, with the preset's networks.

    Args:
        models, preset: as for the engine. make_noise: by default drawn from the row's seed.
    """

    def __init__(
        self,
        models: Models,
        preset: Preset,
        make_noise: Callable[[TranslationRequest], Noise] | None = None,
    ) -> None:
        self.models = models
        self.preset = preset
        # What the script encodes ahead are the CLIP targets; it remembers nothing between images.
        self._ahead = dataclasses.replace(
            models,
            dino=None,
            arcface=None,
            vgg=None,
            features=FeatureCache(0),
            texts=FeatureCache(0),
        )
        self._classes = classes_of(models.unet.config, preset)
        schedule = Schedule.respaced(preset.respacing, models.noise_schedule)
        self._first_index = schedule.first_index(preset.skip)
        self._tables = ChainTables(schedule, models.device)
        self._make_noise = make_noise or (lambda request: RowNoise.of(request.seed, preset))

    @torch.no_grad()
    def translate(self, request: TranslationRequest) -> Translation:
        """A whole chain, restarts included.

        Raises:
            ValueError: the row has a mask, which the script knows nothing of.
        """
        if request.mask is not None:
            raise ValueError(
                f"row {request.id!r} has a mask; expected none in the official pattern"
            )
        preset, noise = self.preset, self._make_noise(request)
        to, source_clip_loss = encode_conditions(self._ahead, preset, request)
        slot = Slot(request, self._first_index, source_clip_loss)
        x = previous = to.source
        move = Move.RESTART
        while move not in (Move.FINISH, Move.FAIL):
            table = self._at(slot.index)
            if move is Move.RESTART:
                x, previous = add_noise(to.source, self._normal(noise), table), to.source
            classes = draw_classes([noise], self._classes, preset.prior_class)
            if classes is not None:
                classes = classes.to(self.models.device)
            push, losses, previous = self._guide(x, table, classes, slot, to, previous, noise)
            denoised = self._denoise(x, table, classes)
            drawn = self._normal(noise)
            if preset.sampler == "ddim":
                x, x0 = ddim_step(x, denoised, push, table)
            elif preset.guidance_step == "spherical":
                x, x0 = spherical_step(x, denoised, push, drawn, preset.guidance_rate, table)
            else:
                x, x0 = ddpm_step(x, denoised, push, drawn, table)
            if not torch.isfinite(x).all():
                losses["total"] = float("nan")
            move = slot.advance(losses, preset)
            if move is Move.GO_BACK:
                x = go_back(x, self._normal(noise), table)
        failed = move is Move.FAIL
        return Translation(
            id=request.id,
            seed=request.seed,
            status="failed" if failed else "done",
            image=None if failed else finish_image(x0[0], request, preset),
            reason="non_finite" if failed else None,
            error="losses or image not finite" if failed else None,
            steps=slot.steps,
            restarts=slot.restarts,
            seconds=time.monotonic() - slot.entered,
            slots=1,
            losses=slot.losses,
        )

    def _at(self, index: int) -> StepTable:
        return self._tables.at(torch.tensor([index], device=self.models.device))

    def _normal(self, noise: Noise) -> Tensor:
        """(1, 3, H, W)."""
        return noise.chain()[None].to(self.models.device)

    def _denoise(self, x: Tensor, table: StepTable, classes: Tensor | None) -> Denoised:
        with self.models.autocast():
            output = self.models.unet(x, table.time, classes)
        return read_denoiser(output, x, table)

    @torch.enable_grad()
    def _guide(
        self,
        x: Tensor,
        table: StepTable,
        classes: Tensor | None,
        slot: Slot,
        to: Conditions,
        previous: Tensor,
        noise: Noise,
    ) -> tuple[Tensor, dict[str, float], Tensor]:
        """The negative gradient at x_t, the losses by name, and the image that guided.

        Args:
            x: (1, 3, H, W) at the time of `table`. previous: what guided the previous step.
        """
        preset = self.preset
        x = x.detach().requires_grad_()
        x0 = self._denoise(x, table, classes).x0
        mix = table.noise * x0 + (1 - table.noise) * x
        z = mix if preset.noise_mix else x0
        look = _Losses(self.models, preset, to, z)
        ways: dict[str, Callable[[], Tensor]] = {
            "structure": look.structure,
            "contrast": look.contrast,
            "divergence": lambda: look.divergence(previous),
            "style_cls": look.style_cls,
            "style_pixels": lambda: style_pixels_loss(z, to.style),
            "clip": lambda: look.clip(mix, noise),
            "identity": look.identity,
            "vgg_content": look.vgg_content,
            "vgg_gram": look.vgg_gram,
            "range": lambda: range_loss(x0),
        }
        losses = dict.fromkeys(LOSS_NAMES, float("nan"))
        total = torch.zeros((), device=x.device)
        for name, weight in slot.weights(preset).items():
            if weight:
                loss = ways[name]().sum()
                losses[name] = loss.item()
                total = total + weight * loss
        losses["total"] = total.item()
        (gradient,) = torch.autograd.grad(total, x)
        return -gradient, losses, z.detach()


class _Losses:
    """Losses of one step that look through a network, each of which looks for itself alone.

    Args:
        to: the row's conditions, of which images and CLIP targets are used. z: (1, 3, H, W), the
            image that guides, with the graph that leads back to x_t.
    """

    def __init__(self, models: Models, preset: Preset, to: Conditions, z: Tensor) -> None:
        self._models, self._preset, self._to, self._z = models, preset, to, z

    def structure(self) -> Tensor:
        with torch.no_grad():
            kept = self_similarity(self._dino(self._to.source).keys)
        return structure_loss(self._dino(self._z).keys, kept)

    def contrast(self) -> Tensor:
        with torch.no_grad():
            kept = self._dino(self._to.source).keys
        return contrast_loss(self._dino(self._z).keys, kept, self._preset.contrast_temperature)

    def divergence(self, previous: Tensor) -> Tensor:
        with torch.no_grad():
            before = self._dino(previous).cls
        return divergence_loss(self._dino(self._z).cls, before)

    def style_cls(self) -> Tensor:
        with torch.no_grad():
            style = self._dino(self._to.style).cls
        return style_cls_loss(self._dino(self._z).cls, style)

    def clip(self, mix: Tensor, noise: Noise) -> Tensor:
        clips, targets = self._models.clips, self._to.clip_targets
        total = torch.zeros(1, device=mix.device)
        for clip, target in zip(clips, targets, strict=True):
            maps = noise.crops()[None].to(mix.device)
            with self._models.autocast():
                crops = clip.embed_crops(apply_crops(mix, maps, clip.size))
            total = total + clip_direction_loss(crops[None], target) / len(clips)
        return total

    def identity(self) -> Tensor:
        with torch.no_grad():
            source = self._face(self._to.source)
        return identity_loss(self._face(self._z), source)

    def vgg_content(self) -> Tensor:
        layers = self._preset.vgg_content_layers
        with torch.no_grad():
            kept = self._vgg(self._to.source)
        seen = self._vgg(self._z)
        return vgg_content_loss([seen[n] for n in layers], [kept[n] for n in layers])

    def vgg_gram(self) -> Tensor:
        layers = self._preset.vgg_gram_layers
        with torch.no_grad():
            style = self._vgg(self._to.style)
        seen = self._vgg(self._z)
        return vgg_gram_loss(
            [gram_matrix(seen[n]) for n in layers], [gram_matrix(style[n]) for n in layers]
        )

    def _dino(self, image: Tensor) -> DinoFeatures:
        assert self._models.dino is not None
        with self._models.autocast():
            seen = self._models.dino(image)
        return DinoFeatures(seen.keys.float(), seen.cls.float())

    def _face(self, image: Tensor) -> Tensor:
        assert self._models.arcface is not None
        with self._models.autocast():
            return self._models.arcface(image).float()

    def _vgg(self, image: Tensor) -> dict[str, Tensor]:
        assert self._models.vgg is not None
        with self._models.autocast():
            layers = self._models.vgg(image)
        return {name: features.float() for name, features in layers.items()}
