"""LPIPS, by torchmetrics, with the weights of its network from a file.

Zhang et al. 2018. torchmetrics has the linear layers on top; what lies below is torchvision's
AlexNet, VGG-16 or SqueezeNet, which it would download.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision import models

from dstc_engine.errors import WeightsError
from dstc_engine.metrics.from_file import read_state_dict

NETWORKS = {
    "alex": models.AlexNet_Weights.IMAGENET1K_V1,
    "vgg": models.VGG16_Weights.IMAGENET1K_V1,
    "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
}


def load_lpips(
    network: str, weights: bytes, device: torch.device
) -> Callable[[Tensor, Tensor], float]:
    """The distance of two (1, 3, H, W) in [-1, 1], 0 for equal ones.

    Args:
        network: of NETWORKS. weights: the file that torchvision publishes for it.

    Raises:
        WeightsError: no such network, or not its weights.
    """
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    if network not in NETWORKS:
        raise WeightsError(f"LPIPS: found {network!r}; expected one of {', '.join(NETWORKS)}")
    read_state_dict(io.BytesIO(weights), f"LPIPS {network}")
    with _where_torchvision_looks(posixpath.basename(NETWORKS[network].url), weights):
        try:
            metric = LearnedPerceptualImagePatchSimilarity(net_type=cast(Any, network))
        except RuntimeError as error:
            raise WeightsError(f"LPIPS {network}: {error}") from error
    metric.eval().requires_grad_(False).to(device)

    def distance(ours: Tensor, theirs: Tensor) -> float:
        found = float(metric(ours, theirs))
        metric.reset()  # else it keeps every value it ever told
        return found

    return distance


@contextlib.contextmanager
def _where_torchvision_looks(name: str, weights: bytes) -> Iterator[None]:
    """The file in a hub folder of its own, so that torchvision finds it and downloads nothing."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        (checkpoints / name).write_bytes(weights)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
