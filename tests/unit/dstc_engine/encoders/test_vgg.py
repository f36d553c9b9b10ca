"""VGG's features against torchvision's own network, and the published layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg19
from torchvision.models.vgg import VGG
from torchvision.transforms.functional import normalize

from dstc_engine.encoders.vgg import CLASSIFIER, Vgg
from dstc_engine.errors import WeightsError
from dstc_engine.preset_fields import VGG_LAYERS
from dstc_engine.weights import registry
from dstc_engine.weights.load import load_vgg


@pytest.fixture(scope="module")
def published() -> VGG:
    """torchvision's VGG-19 with random convolutions; its 500 MB of classifier stay on "meta"."""
    with torch.device("meta"):
        network = vgg19(weights=None).eval()
    network.features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(3)
    for parameter in network.features.parameters():
        spread = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        nn.init.normal_(parameter, std=spread, generator=generator)
    return network


def images(side: int) -> Tensor:
    return 2 * torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(4)) - 1


def hooked(network: VGG, prepared: Tensor) -> dict[str, Tensor]:
    """What each ReLU of torchvision's network gives, named by its block and its place there."""
    seen: dict[str, Tensor] = {}
    block, place = 1, 0
    handles = []
    for module in network.features:
        if isinstance(module, nn.MaxPool2d):
            block, place = block + 1, 0
        if isinstance(module, nn.ReLU):
            place += 1
            name = f"relu{block}_{place}"
            handles.append(
                module.register_forward_hook(
                    lambda _, given, output, name=name: seen.update({name: output.clone()})
                )
            )
    with torch.no_grad():
        network.features(prepared)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("side", [32, 48])
def test_features_are_those_of_torchvisions_own_network(side: int, published: VGG) -> None:
    shown = images(side)
    at_32 = (shown + 1) / 2
    if side != 32:
        at_32 = F.interpolate(at_32, (32, 32), mode="bilinear")
    prepared = normalize(at_32, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = hooked(published, prepared)
    assert tuple(expected) == VGG_LAYERS
    ours = Vgg(32, VGG_LAYERS)
    ours.load_state_dict({f"features.{n}": t for n, t in published.features.state_dict().items()})
    with torch.no_grad():
        seen = ours(shown)
    for name, features in expected.items():
        assert features.any()
        torch.testing.assert_close(seen[name], features, rtol=1e-4, atol=1e-5)
        assert ours.channels(name) == features.shape[1]


def test_what_lies_behind_the_deepest_layer_is_neither_built_nor_run() -> None:
    shallow = Vgg(16, ("relu2_1", "relu1_2"))
    assert len(shallow.features) == 7, "two convolutions and a pooling, then one more"
    assert list(shallow(images(16))) == ["relu1_2", "relu2_1"]


def test_read_and_unread_names_are_together_the_published_ones(published: VGG) -> None:
    names = set(published.state_dict())
    assert set(CLASSIFIER) == {name for name in names if name.startswith("classifier.")}
    for layers in (("relu1_1",), ("relu2_2", "relu3_3"), ("relu5_4",)):
        network = Vgg(16, layers)
        assert set(network.state_dict()) | network.unread() == names
        assert not set(network.state_dict()) & network.unread()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a VGG is expected that is registered under the name "a-vgg"."""
    record = registry.Weights(name="a-vgg", file="a.pth", source="here", sha256=None, licence="")
    monkeypatch.setitem(registry.REGISTRY, "a-vgg", record)
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path))
    return tmp_path / "a.pth"


def save(network: VGG, file: Path, **changes: Tensor | None) -> None:
    # One number, seen in the classifier's shapes: the file stays small.
    state = {
        name: torch.zeros(1).expand(t.shape) if t.is_meta else t
        for name, t in network.state_dict().items()
    }
    changed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    torch.save({n: t for n, t in (state | changed).items() if t is not None}, file)


def test_the_published_file_is_loaded_without_its_classifier(file: Path, published: VGG) -> None:
    save(published, file)
    network = load_vgg("a-vgg", 32, ("relu3_1", "relu1_1"))
    assert len(network.features) == 12
    assert torch.equal(network.features[10].weight, published.features[10].weight)


def test_a_file_of_the_convolutions_alone_is_loaded_too(file: Path, published: VGG) -> None:
    save(published, file, **{name.replace(".", "__"): None for name in CLASSIFIER})
    assert len(load_vgg("a-vgg", 32, ("relu5_4",)).features) == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features__2__weight": None}, "features.2.weight is missing"),
        ({"features__1__weight": torch.zeros(64)}, "features.1.weight is unknown"),
        ({"classifier__7__bias": torch.zeros(9)}, "classifier.7.bias is unknown"),
        ({"features__5__bias": torch.zeros(9)}, "features.5.bias is (9,), expected (128,)"),
    ],
)
def test_tensors_that_do_not_belong_are_named(
    change: dict[str, Tensor | None], message: str, file: Path, published: VGG
) -> None:
    save(published, file, **change)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_vgg("a-vgg", 32, ("relu3_1",))
