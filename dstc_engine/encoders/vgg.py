"""VGG-19: features of its layers, another representation of structure and of style.

Simonyan & Zisserman 2015, configuration E. Module names give the tensor names of torchvision's
published file; what lies behind the deepest layer asked for is neither built nor run.
S images, C channels, H x W positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from dstc_engine.encoders.prepare import prepare

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# (channels, convolutions) of the five blocks; a pooling that halves the side follows each.
_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
# Names that only the published file has: its classifier, which no loss looks through.
CLASSIFIER = tuple(f"classifier.{n}.{kind}" for n in (0, 3, 6) for kind in ("weight", "bias"))


class Vgg(nn.Module):
    """The frozen convolutions of VGG-19, behind the resize and normalisation they expect.

    Args:
        size: pixels that the shorter side is resized to. layers: names such as "relu4_2".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, layers: Collection[str]) -> None:
        super().__init__()
        self.size = size
        self._reads = {place: name for place, name in _relus().items() if name in set(layers)}
        assert len(self._reads) == len(set(layers)), f"{layers} are not all layers of VGG-19"
        self.features = nn.Sequential(*itertools.islice(_modules(), max(self._reads) + 1))
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(S, 3, H, W) in about [-1, 1] to (S, C, H', W') of each layer asked for, by its name."""
        x = self.prepare(images)
        seen = {}
        for place, module in enumerate(self.features):
            x = module(x)
            if place in self._reads:
                seen[self._reads[place]] = x
        return seen

    def prepare(self, images: Tensor) -> Tensor:
        """[-1, 1] to VGG's own size and ImageNet's normalisation."""
        return prepare(images, self.size, self.mean, self.std)

    def channels(self, layer: str) -> int:
        """Channels of a layer such as "relu4_2"."""
        return _BLOCKS[int(layer.removeprefix("relu").partition("_")[0]) - 1][0]

    def unread(self) -> frozenset[str]:
        """Names of the published file's tensors that this network leaves out."""
        # The ReLU behind each convolution is what layers are named by.
        deeper = (place - 1 for place in _relus() if place > len(self.features))
        names = (f"features.{place}.{kind}" for place in deeper for kind in ("weight", "bias"))
        return frozenset([*CLASSIFIER, *names])


def _modules() -> Iterator[nn.Module]:
    before = 3
    for channels, convolutions in _BLOCKS:
        for _ in range(convolutions):
            yield nn.Conv2d(before, channels, 3, padding=1)
            yield nn.ReLU()
            before = channels
        yield nn.MaxPool2d(2)


def _relus() -> dict[int, str]:
    """The place of each ReLU among the modules, and its name."""
    names, place = {}, 0
    for block, (_, convolutions) in enumerate(_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            names[place + 1] = f"relu{block}_{number}"
            place += 2
        place += 1
    return names
