"""Published layouts, by sizes that their publishers and the field's libraries give."""

from __future__ import annotations

import math
from typing import Any

import open_clip
import pytest
import timm
import torch
from torchvision.models import vgg19

from dstc_engine.weights.architectures import PUBLISHED_FLAGS, clip_normalization, layout
from dstc_engine.weights.formats import shapes
from dstc_engine.weights.registry import REGISTRY, find

PUBLISHED = [weights for weights in REGISTRY.values() if weights.is_published]
# As published with each model.
PARAMETERS = {
    "adm-imagenet256": 552_814_086,
    "adm-imagenet512": 558_997_638,
    "adm-ffhq256": 93_563_910,
    "clip-vit-b-32": 151_277_313,
    "clip-vit-b-16": 149_620_737,
    "clip-vit-l-14": 427_616_513,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    assert sum(math.prod(shape) for shape in layout(find(name)).values()) == PARAMETERS[name]


@pytest.mark.parametrize("weights", [w for w in PUBLISHED if w.kind == "vit"], ids=lambda w: w.name)
def test_vits_are_timms(weights: Any) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(weights.upstream, pretrained=False)
    assert layout(weights) == shapes(theirs.state_dict())


@pytest.mark.parametrize(
    "weights", [w for w in PUBLISHED if w.kind == "clip"], ids=lambda w: w.name
)
def test_clips_are_open_clips(weights: Any) -> None:
    name, tag = weights.upstream.split("/")
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    with torch.device("meta"):
        theirs = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
    assert layout(weights) == shapes(theirs.state_dict())
    mean, std = clip_normalization(weights)
    assert len(mean) == len(std) == 3 and all(0 < value < 1 for value in (*mean, *std))


def test_the_vgg_is_torchvisions_but_for_its_classifier() -> None:
    with torch.device("meta"):
        theirs = shapes(vgg19().state_dict())
    expected = {name: shape for name, shape in theirs.items() if name.startswith("features")}
    assert layout(find("vgg19")) == expected
    assert find("vgg19").unread == ("classifier.*",)


def test_every_published_prior_has_flags() -> None:
    assert PUBLISHED_FLAGS.keys() == {w.name for w in PUBLISHED if w.kind == "prior"}
