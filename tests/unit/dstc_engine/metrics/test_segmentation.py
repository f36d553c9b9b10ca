"""Segmentation: silhouettes, overlap, and a network of torchvision from a file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from dstc_engine.errors import WeightsError
from dstc_engine.metrics.evaluation_models import EvaluationModels
from dstc_engine.metrics.segmentation import (
    foreground,
    mean_iou,
    silhouette,
    torchvision_network,
)

CPU = torch.device("cpu")


def test_white_inside_belongs_to_the_drawing() -> None:
    ring = np.full((64, 64, 3), 255, np.uint8)
    ring[16:48, 16:48] = 0
    ring[20:44, 20:44] = 255
    assert silhouette(ring).sum() == 32 * 32
    ring[16:48, 16:48] = 230
    assert silhouette(ring).sum() == 32 * 32 and silhouette(ring, white=220).sum() == 0
    assert foreground(220).labels([ring], torch.zeros(1, 3, 64, 64)).sum() == 0


def test_overlap_is_the_mean_over_labels_that_either_has() -> None:
    ours = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]])
    theirs = torch.tensor([[0, 1, 1, 1], [2, 2, 3, 3]])
    assert mean_iou(ours, ours) == 1.0
    assert mean_iou(ours, theirs) == pytest.approx((1 / 2 + 2 / 3 + 2 / 4 + 0) / 4)
    assert mean_iou(ours, theirs, ignored=3) == pytest.approx((1 / 2 + 2 / 3 + 2 / 4) / 3)
    nothing = torch.zeros(2, 2, dtype=torch.int64)
    assert mean_iou(nothing, nothing, ignored=0) == 1.0


def test_a_network_of_torchvision_labels_as_it_does_itself() -> None:
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    made = torchvision_network("lraspp_mobilenet_v3_large", file.getvalue(), CPU)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (features,) = EvaluationModels(segmentation=made).features([image])
    assert features["labels"].shape == (64, 64) and made.ignored is None
    assert 0 <= int(features["labels"].min()) <= int(features["labels"].max()) < 4

    with pytest.raises(WeightsError, match="'fcn_resnet50'"):
        torchvision_network("fcn_resnet50", file.getvalue(), CPU)
    with pytest.raises(WeightsError, match="expected one of torchvision"):
        torchvision_network("nosuch", file.getvalue(), CPU)
    with pytest.raises(WeightsError, match="not a state dict"):
        torchvision_network("lraspp_mobilenet_v3_large", b"nothing", CPU)
