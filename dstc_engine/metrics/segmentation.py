"""Segmentation of images, and the overlap of two segmentations.

B images of H x W pixels; labels are whole numbers, one for each pixel.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dstc_engine.errors import WeightsError
from dstc_engine.metrics.from_file import read_state_dict
from dstc_engine.request import ImageArray

# Of the least channel, in levels of 255: paler pixels are the white that drawings stand on.
WHITE = 240
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What torchvision's own recipe for these networks resizes the shorter side to.
_SIDE = 520
# Of FCN and DeepLab, and of LR-ASPP: their rows are the classes.
_LAST_LAYERS = ("classifier.4.weight", "classifier.low_classifier.weight")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmentation of images into labels.

    Attributes:
        labels: (B, H, W, 3) uint8 images and the same as (B, 3, H, W) in [-1, 1] to (B, H, W).
        ignored: the label that does not count, such as the ground of a foreground.
    """

    labels: Callable[[Sequence[ImageArray], Tensor], Tensor]
    ignored: int | None = None


def silhouette(image: ImageArray, white: int = WHITE) -> npt.NDArray[np.bool_]:
    """(H, W), true within the outline: all that white cannot reach from the border."""
    paper = Image.fromarray(((image.min(axis=2) >= white) * 255).astype(np.uint8))
    wide = Image.new("L", (paper.width + 2, paper.height + 2), 255)
    wide.paste(paper, (1, 1))
    ImageDraw.floodfill(wide, (0, 0), 128)
    return np.asarray(wide)[1:-1, 1:-1] != 128


def foreground(white: int = WHITE) -> Segmentation:
    """1 within the silhouette of a drawing on white, 0 outside, which does not count."""

    def labels(images: Sequence[ImageArray], batch: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(silhouette(p, white).astype(int)) for p in images])

    return Segmentation(labels, ignored=0)


def torchvision_network(name: str, weights: bytes, device: torch.device) -> Segmentation:
    """A segmentation network of torchvision, such as `deeplabv3_resnet50`.

    Args:
        name: of the function in `torchvision.models.segmentation`. weights: its state dict's file.

    Raises:
        WeightsError: no such network, or not its weights.
    """
    from torchvision.models import segmentation as networks  # a second to import

    make = getattr(networks, name, None)
    if name.startswith("_") or not callable(make) or not name.islower():
        raise WeightsError(
            f"segmentation network {name!r}: expected one of torchvision.models.segmentation, "
            "such as deeplabv3_resnet50"
        )
    state = read_state_dict(io.BytesIO(weights), name)
    last = next((state[key] for key in _LAST_LAYERS if key in state), None)
    if last is None:
        raise WeightsError(f"segmentation network {name!r}: none of its weights has its last layer")
    # The auxiliary head only served its training; its tensors are in most files.
    state = {key: value for key, value in state.items() if not key.startswith("aux_classifier")}
    network = make(weights=None, weights_backbone=None, num_classes=len(last))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"segmentation network {name!r}: {error}") from error
    network.eval().requires_grad_(False).to(device)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (_MEAN, _STD))

    def labels(images: Sequence[ImageArray], batch: Tensor) -> Tensor:
        resized = torch.nn.functional.interpolate(
            (batch + 1) / 2, _SIDE, mode="bilinear", antialias=True
        )
        logits = network((resized - mean) / std)["out"]
        back = torch.nn.functional.interpolate(logits, batch.shape[-2:], mode="bilinear")
        return back.argmax(dim=1)

    return Segmentation(labels)


def mean_iou(ours: Tensor, theirs: Tensor, ignored: int | None = None) -> float:
    """Intersection over union of (H, W) labels, 0 .. 1, mean over the labels that either has.

    1 where neither has any, as two empty images. `ignored` does not count as a label.
    """
    overlaps = []
    for label in torch.unique(torch.cat([ours.flatten(), theirs.flatten()])).tolist():
        if label != ignored:
            a, b = ours == label, theirs == label
            overlaps.append(float((a & b).sum() / (a | b).sum()))
    return sum(overlaps) / len(overlaps) if overlaps else 1.0
