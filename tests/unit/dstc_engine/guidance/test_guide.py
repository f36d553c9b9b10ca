"""The split backward pass against one graph through everything, with losses written out here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import dstc_engine.guidance.guide as guide_module
from dstc_engine.crops import CropRange, apply_crops
from dstc_engine.diffusion.sampling import ChainTables
from dstc_engine.diffusion.schedule import Schedule
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.guidance.conditions import Conditions, encode_conditions
from dstc_engine.guidance.guide import WEIGHTED, Guidance, guide
from dstc_engine.losses import LOSSES, SEEN_BY_DINO
from dstc_engine.models import Models
from dstc_engine.noise import RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import TranslationRequest
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import SIZE, request

# All losses have a weight; how large they are for a row, each test says.
PRESET = dataclasses.replace(
    tiny.PRESET,
    **{f"weight_{name}": 1.0 for name in LOSSES if not tiny.PRESET.guides(name)},
    vgg_content_layers=("relu2_2", "relu1_2"),
    vgg_gram_layers=("relu1_1", "relu2_1"),
)
KINDS = ("text", "image", "both")
OF_STYLE = ("style_cls", "style_pixels", "vgg_gram")
INDICES = [4, 2, 9]
RANGES = CropRange(PRESET.crops, 10.0, (0.8, 1.0), (0.9, 1.1), 0.5)


class Faces(nn.Module):
    """A stand-in for ArcFace: unit vectors of a random projection."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(3 * SIZE * SIZE, 8)
        generator = torch.Generator().manual_seed(4)
        nn.init.normal_(self.projection.weight, std=0.1, generator=generator)
        nn.init.zeros_(self.projection.bias)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.projection(images.flatten(1)), dim=-1)


@pytest.fixture(scope="module")
def models() -> Models:
    """Two CLIP models of different widths, faces, and VGG."""
    return tiny.make_models(
        clips=(tiny.make_clip(), tiny.make_clip(seed=9, width=24)),
        arcface=Faces(),
        vgg=tiny.make_vgg("relu1_1", "relu1_2", "relu2_1", "relu2_2"),
    )


@dataclasses.dataclass
class Scene:
    """Three rows, one of each kind, each at its own index."""

    rows: list[TranslationRequest]
    x: Tensor
    to: Conditions
    previous_cls: Tensor
    crops: Tensor
    weights: Tensor

    def guide(self, models: Models, preset: Preset) -> Guidance:
        table = ChainTables(Schedule.respaced("20")).at(torch.tensor(INDICES))
        return guide(
            models, preset, self.x, table, self.to, self.previous_cls, self.crops, self.weights
        )


@pytest.fixture
def scene(models: Models) -> Scene:
    generator = torch.Generator().manual_seed(5)
    rows = [request(kind, seed) for seed, kind in enumerate(KINDS)]
    noises = [RowNoise(row.seed, SIZE, RANGES) for row in rows]
    encoded = [encode_conditions(models, PRESET, row)[0] for row in rows]
    to = encoded[0].empty(3)
    for slot, row in enumerate(encoded):
        to[slot] = row
    weights = 100 * torch.rand(3, len(WEIGHTED), generator=generator)
    for slot, kind in enumerate(KINDS):
        for name in {"text": OF_STYLE, "image": ("clip",), "both": ()}[kind]:
            weights[slot, WEIGHTED.index(name)] = 0
    return Scene(
        rows,
        torch.randn(3, 3, SIZE, SIZE, generator=generator),
        to,
        to.source_cls + 0.3 * torch.randn(to.source_cls.shape, generator=generator),
        torch.stack([torch.stack([n.crops() for n in noises]) for _ in range(2)]),
        weights,
    )


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a[:, None], b[None], dim=-1)


def gram(vgg: Vgg | None, name: str, image: Tensor) -> Tensor:
    assert vgg is not None
    (features,) = vgg(image)[name]
    return torch.einsum("ihw,jhw->ij", features, features) / features[0].numel()


def plain_losses(
    models: Models, scene: Scene, s: int, x: Tensor, noise_mix: bool
) -> dict[str, Tensor]:
    """Row `s` by itself, from the formulas of the method, in one graph from x (1, 3, H, W)."""
    times = np.round(np.linspace(0, 999, 20)).astype(int)
    t = int(times[INDICES[s]])
    bar = float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: t + 1]))
    eps = models.unet(x, torch.tensor([float(t)]))[:, :3]
    x0 = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
    f = math.sqrt(1 - bar)
    mix = f * x0 + (1 - f) * x
    z = mix if noise_mix else x0
    row = scene.rows[s]
    content = torch.from_numpy(row.content / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    assert models.dino is not None
    seen, source = models.dino(z), models.dino(content)
    keys, source_keys = seen.keys[0], source.keys[0]
    own_place = torch.arange(len(keys))
    cross = cosines(keys, source_keys) / PRESET.contrast_temperature
    losses = {
        "structure": F.mse_loss(cosines(keys, keys), cosines(source_keys, source_keys)),
        "contrast": F.cross_entropy(cross, own_place),
        "divergence": -F.mse_loss(seen.cls[0], scene.previous_cls[s]),
        "range": (x0.abs() - 1).clamp(min=0).square().mean(),
    }
    if models.vgg is not None:
        losses["vgg_content"] = torch.stack(
            [
                F.mse_loss(models.vgg(z)[name], models.vgg(content)[name])
                for name in PRESET.vgg_content_layers
            ]
        ).mean()
    if models.arcface is not None:
        losses["identity"] = 1 - F.cosine_similarity(models.arcface(z), models.arcface(content))[0]
    if row.style is not None:
        style = torch.from_numpy(row.style / np.float32(127.5) - 1).permute(2, 0, 1)[None]
        losses["style_cls"] = F.mse_loss(seen.cls, models.dino(style).cls)
        losses["style_pixels"] = F.mse_loss(z, style)
        losses["vgg_gram"] = torch.stack(
            [
                F.mse_loss(gram(models.vgg, name, z), gram(models.vgg, name, style)) / 4
                for name in PRESET.vgg_gram_layers
            ]
        ).mean()
    if row.prompt is not None:
        shares = []
        for m, clip in enumerate(models.clips):
            target = clip.embed_text(row.prompt) + 0.2 * clip.embed_image(content)[0]
            if row.source_prompt is not None:
                target = target - 0.4 * clip.embed_text(row.source_prompt)
            crops = apply_crops(mix, scene.crops[m, s : s + 1], SIZE)
            embedded = clip.embed_crops(crops)
            shares.append(-F.cosine_similarity(embedded, target[None]).mean())
        losses["clip"] = torch.stack(shares).mean()
    return losses


@pytest.mark.parametrize("noise_mix", [True, False])
def test_push_is_minus_the_gradient_of_each_rows_total(
    noise_mix: bool, models: Models, scene: Scene
) -> None:
    ours = scene.guide(models, dataclasses.replace(PRESET, noise_mix=noise_mix))
    for s, kind in enumerate(KINDS):
        x = scene.x[s : s + 1].clone().requires_grad_()
        losses = plain_losses(models, scene, s, x, noise_mix)
        total = torch.stack(
            [scene.weights[s, WEIGHTED.index(n)] * v for n, v in losses.items()]
        ).sum()
        (gradient,) = torch.autograd.grad(total, x)
        difference = (ours.push[s] + gradient[0]).abs().max() / gradient.abs().max()
        assert difference < 1e-5, kind
        for column, name in enumerate(WEIGHTED):
            value = float(ours.losses[s, column])
            if name in losses:
                assert value == pytest.approx(float(losses[name].detach()), rel=1e-4, abs=1e-6)
            else:
                assert math.isnan(value), f"{kind} has no {name}"
        assert float(ours.losses[s, -1]) == pytest.approx(float(total.detach()), rel=1e-5)


def test_no_row_reaches_another(models: Models, scene: Scene) -> None:
    before = scene.guide(models, PRESET)
    generator = torch.Generator().manual_seed(6)
    scene.x[1] = torch.randn(3, SIZE, SIZE, generator=generator)
    scene.previous_cls[1] *= -3
    scene.crops[:, 1] *= 0.5
    scene.weights[1] *= 7
    other = request("both", 77)
    scene.to[1] = encode_conditions(models, PRESET, other)[0]
    after = scene.guide(models, PRESET)
    for name in ("push", "losses", "cls"):
        ours, theirs = (getattr(g, name).nan_to_num(nan=-1e9) for g in (before, after))
        assert torch.equal(ours[[0, 2]], theirs[[0, 2]]), name
        assert not torch.equal(ours[1], theirs[1]), name
    assert torch.equal(before.denoised.x0[[0, 2]], after.denoised.x0[[0, 2]])


def test_a_loss_without_a_weight_in_the_preset_is_not_computed(
    models: Models, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("style_pixels_loss", "range_loss", "structure_loss", "divergence_loss"):
        loss = getattr(guide_module, name)

        def counted(*given: Tensor, name: str = name, loss: Any = loss) -> Tensor:
            calls.append(name)
            return loss(*given)

        monkeypatch.setattr(guide_module, name, counted)
    for weight, silent in [
        ("weight_style_pixels", {"style_pixels_loss"}),
        ("weight_range", {"range_loss"}),
        ("weight_structure", {"structure_loss"}),
    ]:
        calls.clear()
        seen = scene.guide(models, dataclasses.replace(PRESET, **{weight: 0.0}))
        everything = {"style_pixels_loss", "range_loss", "structure_loss", "divergence_loss"}
        assert set(calls) == everything - silent
        column = WEIGHTED.index(weight.removeprefix("weight_"))
        assert seen.losses[:, column].isnan().all() and seen.push.isfinite().all()


def test_dino_does_not_look_where_only_vgg_counts(models: Models, scene: Scene) -> None:
    # The class token that the next step compares with stays as it was.
    looks: list[int] = []
    assert models.dino is not None
    handle = models.dino.register_forward_hook(lambda *_: looks.append(1))
    without = dataclasses.replace(PRESET, **{f"weight_{name}": 0.0 for name in SEEN_BY_DINO})
    seen = scene.guide(models, without)
    handle.remove()
    assert not looks and torch.equal(seen.cls, scene.previous_cls)
    columns = [WEIGHTED.index(name) for name in SEEN_BY_DINO]
    assert seen.losses[:, columns].isnan().all()
    blind = dataclasses.replace(models, dino=None)
    for name in ("push", "losses"):
        ours, theirs = (
            getattr(g, name).nan_to_num(nan=-1e9) for g in (seen, scene.guide(blind, without))
        )
        assert torch.equal(ours, theirs), "loaded or not"


def test_no_weight_no_push(models: Models, scene: Scene) -> None:
    scene.weights[1] = 0
    seen = scene.guide(models, PRESET)
    assert not seen.push[1].any() and seen.push[0].any() and seen.push[2].any()
    assert seen.losses[1, :-1].isnan().all() and float(seen.losses[1, -1]) == 0


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_step_along_the_push_lowers_the_loss_it_is_made_of(
    name: str, models: Models, scene: Scene
) -> None:
    # Row 2 has them all. A finite difference: the loss falls by the squared length of the push.
    weights = torch.zeros_like(scene.weights)
    weights[2, WEIGHTED.index(name)] = 1
    scene.weights = weights
    seen = scene.guide(models, PRESET)
    column = WEIGHTED.index(name)
    push = seen.push[2]
    length = float(push.norm())
    assert length > 0
    step = 0.02 / length
    values = []
    for sign in (1, -1):
        moved = dataclasses.replace(scene, x=scene.x.clone())
        moved.x[2] += sign * step * push
        values.append(float(moved.guide(models, PRESET).losses[2, column]))
    assert (values[1] - values[0]) / (2 * step) == pytest.approx(length**2, rel=0.05)


def test_nothing_of_the_graph_is_kept(models: Models, scene: Scene) -> None:
    with torch.no_grad():
        seen = scene.guide(models, PRESET)
    tensors = [seen.push, seen.losses, seen.cls, seen.denoised.x0, seen.denoised.eps]
    assert not any(t.requires_grad for t in tensors) and not scene.x.requires_grad
    assert all(p.grad is None for p in models.unet.parameters())


def test_crops_are_made_outside_of_autocast(
    models: Models, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = dataclasses.replace(models, precision="bf16")
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    sample = F.grid_sample

    def watched(images: Tensor, grid: Tensor, **options: Any) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append((images.dtype, grid.dtype))
        return sample(images, grid, **options)

    monkeypatch.setattr(F, "grid_sample", watched)
    scene.guide(half, PRESET)
    assert seen == [(torch.float32, torch.float32)] * 4, "two rows with a prompt, two models"


class _Copies(TorchDispatchMode):
    """Counts copies between the CPU and the meta device, which stands in for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in pytree.tree_leaves((args, out)) if isinstance(t, Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self.found.append(str(function))
        return out


def test_a_step_copies_nothing_between_devices() -> None:
    models = tiny.make_models(device=torch.device("meta"))
    image = torch.empty(3, 3, SIZE, SIZE, device="meta")
    cls, target = (torch.empty(3, width, device="meta") for width in (32, 16))
    keys, similarity = (torch.empty(3, 17, width, device="meta") for width in (32, 17))
    to = Conditions(image, image[:, :1], keys, similarity, cls, image, cls, (target,), cls)
    index = torch.zeros(3, dtype=torch.int64, device="meta")
    table = ChainTables(Schedule.respaced("20"), torch.device("meta")).at(index)
    crops = torch.empty(1, 3, PRESET.crops, 2, 3, device="meta")
    weights = torch.empty(3, len(WEIGHTED), device="meta")
    wanted = {name: [0, 1, 2] for name in ("structure", "range", "style_pixels")}
    wanted["clip"] = [0, 2]
    with _Copies() as copies:
        guide(models, tiny.PRESET, image, table, to, cls, crops, weights, wanted)
    # The numbers of the groups' rows go up without a wait (`transfer.upload`).
    assert copies.found == ["aten._to_copy.default"] * 2
