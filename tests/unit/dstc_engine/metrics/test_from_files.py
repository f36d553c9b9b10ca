"""Evaluation models from files: LPIPS and Inception. Their weights here are random."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import squeezenet1_1

from dstc_engine.errors import WeightsError
from dstc_engine.metrics.evaluation_models import EvaluationModels
from dstc_engine.metrics.inception import load_inception
from dstc_engine.metrics.perceptual import load_lpips
from dstc_engine.tensors import to_tensor

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def file_of(network: torch.nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


def test_lpips_of_a_image_and_itself_and_others() -> None:
    torch.manual_seed(0)
    before = torch.hub.get_dir()
    models = EvaluationModels(
        lpips=load_lpips("squeeze", file_of(squeezenet1_1(weights=None)), CPU)
    )
    a, b = IMAGES
    blurred = (a.astype(int) + 4).clip(0, 255).astype(np.uint8)
    assert models.perceptual_distance(a, a) == 0.0
    near, far = models.perceptual_distance(a, blurred), models.perceptual_distance(a, b)
    assert 0 < near < far
    assert models.perceptual_distance(a, b) == far, "it remembers nothing"
    assert torch.hub.get_dir() == before


def test_lpips_takes_no_other_file() -> None:
    with pytest.raises(WeightsError, match="LPIPS squeeze: "):
        load_lpips("squeeze", file_of(torch.nn.Linear(2, 2)), CPU)
    with pytest.raises(WeightsError, match="found 'resnet'; expected one of alex, vgg, squeeze"):
        load_lpips("resnet", b"", CPU)
    with pytest.raises(WeightsError, match="not a state dict"):
        load_lpips("alex", b"nothing", CPU)


def test_inception_sees_images_as_torch_fidelity_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    with monkeypatch.context() as patch:  # it downloads weights, and takes none of its own
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *args, **kwargs: {},
        )
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        network = FeatureExtractorInceptionV3("random", ["2048"])
    features = load_inception(file_of(network), CPU)
    batch = torch.stack([to_tensor(image) for image in IMAGES])
    (expected,) = network(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    torch.testing.assert_close(features(batch), expected)
    assert expected.shape == (2, 2048) and expected.std() > 0
    with pytest.raises(WeightsError, match="weights of Inception"):
        load_inception(b"nothing", CPU)
