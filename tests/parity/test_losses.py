"""Every loss and its gradient at an image z, unweighted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dstc_engine.crops import apply_crops, whole_image
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.losses.clip_direction import clip_direction_loss
from dstc_engine.losses.contrast import contrast_loss
from dstc_engine.losses.divergence import divergence_loss
from dstc_engine.losses.range import range_loss
from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.losses.style import style_cls_loss, style_pixels_loss
from tests.parity.conftest import FORWARD, GRADIENT, relative_error

Loss = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def losses(
    dino: Dino, clip: Clip, source: Tensor, style: Tensor, goldens: dict[str, Tensor]
) -> dict[str, Loss]:
    with torch.no_grad():
        seen, styled = dino(source), dino(style)
        previous = dino(goldens["loss/previous"]).cls
    similarity = self_similarity(seen.keys)

    def clip_loss(z: Tensor) -> Tensor:
        crops = clip.embed_crops(apply_crops(z, whole_image(1)[None], clip.size))
        return clip_direction_loss(crops[None], goldens["clip/target"])

    return {
        "ssim": lambda z: structure_loss(dino(z).keys, similarity),
        "contrastive": lambda z: contrast_loss(dino(z).keys, seen.keys, 0.07),
        "divergence": lambda z: divergence_loss(dino(z).cls, previous),
        "style_cls": lambda z: style_cls_loss(dino(z).cls, styled.cls),
        "l2": lambda z: style_pixels_loss(z, style),
        "range": lambda z: range_loss(1.6 * z),
        "clip": clip_loss,
    }


@pytest.mark.parametrize(
    "name", ["ssim", "contrastive", "divergence", "style_cls", "l2", "range", "clip"]
)
def test_value_and_gradient(name: str, losses: dict[str, Loss], goldens: dict[str, Tensor]) -> None:
    z = goldens["loss/output"].clone().requires_grad_()
    with torch.enable_grad():
        loss = losses[name](z)
        assert loss.shape == (1,)
        (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert relative_error(loss.detach()[0], goldens[f"loss/{name}/value"]) < FORWARD
    assert relative_error(gradient, goldens[f"loss/{name}/grad"]) < GRADIENT
