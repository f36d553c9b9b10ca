"""Inception-v3 as FID knows it, by torch-fidelity, with its weights from a file. F is 2048."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dstc_engine.errors import WeightsError

NAME = "inception-v3-compat"
FEATURES = "2048"


def load_inception(weights: bytes, device: torch.device) -> Callable[[Tensor], Tensor]:
    """(B, 3, H, W) in [-1, 1] to pool3 features (B, 2048).

    Images are resized to 299 pixels as TensorFlow 1 did it, which published numbers rest on.

    Args:
        weights: torch-fidelity's file, the network of Heusel et al. 2017 in PyTorch's form.

    Raises:
        WeightsError: the file is another.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        path.write_bytes(weights)
        try:
            network = FeatureExtractorInceptionV3(
                NAME, [FEATURES], feature_extractor_weights_path=str(path)
            )
        except Exception as error:  # torch's, pickle's and the network's own types
            raise WeightsError(f"weights of Inception: {type(error).__name__}: {error}") from error
    network.to(device)

    def features(batch: Tensor) -> Tensor:
        levels = ((batch + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        (found,) = network(levels)
        return found

    return features
