"""ArcFace IR-SE50: a face to a unit vector that tells who it is. Used by the faces prior alone.

Deng et al. 2019; module names give the tensor names of the published `model_ir_se50`.
B faces, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstc_engine.repeatable import average_pool

# (depth, units) of the four stages; the first unit of each halves the side.
_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * gate.sigmoid()


class _Bottleneck(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)
            if c_in == c_out
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(c_in),
            nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False),
            nn.PReLU(c_out),
            nn.Conv2d(c_out, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            _SqueezeExcitation(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class ArcFace(nn.Module):
    """A frozen face network behind the crop it expects.

    Args:
        crop: top, bottom, left, right of the face, in pixels of a 256-px portrait.
    """

    def __init__(self, crop: tuple[int, int, int, int] = (35, 223, 32, 220)) -> None:
        super().__init__()
        self.crop = crop
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        units = []
        channels = 64
        for depth, count in _STAGES:
            for unit in range(count):
                units.append(_Bottleneck(channels, depth, 2 if unit == 0 else 1))
                channels = depth
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 512), unit length.

        The face is looked for where the aligned 256-px portraits of FFHQ have it.
        """
        at_256 = images
        if images.shape[-1] != 256:
            at_256 = average_pool(images, 256)
        top, bottom, left, right = self.crop
        face = average_pool(at_256[:, :, top:bottom, left:right], 112)
        return F.normalize(self.output_layer(self.body(self.input_layer(face))), dim=-1)
